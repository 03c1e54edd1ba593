//! Programs that copy whole trees: tar, cp, rsync.

use std::path::{Path, PathBuf};

use crate::harness::{Mounted, same};

/// A tree of a few thousand files in TMPDIR, with everything that metadata has.
const MAKE_TREE: &str = r#"
top = TMP + "/tree"
os.mkdir(top)
for d in range(40):
    os.mkdir(f"{top}/d{d}")
    for n in range(75):
        path = f"{top}/d{d}/file-{n}"
        write(path, os.urandom(random.choice((0, 1, 100, 5000, 40_000))))
        if n % 10 == 0:
            os.link(path, f"{top}/d{d}/hard-{n}")
            os.symlink(f"file-{n}", f"{top}/d{d}/soft-{n}")
            os.setxattr(path, "user.number", b"%d" % n)
        if os.getuid() == 0 and n % 7 == 0:
            os.chown(path, 1000 + n, 2000 + d)
            os.chmod(path, 0o640)
        else:
            modes = (0o644, 0o600, 0o755, 0o4755) if n % 10 == 0 else (0o644, 0o444)
            os.chmod(path, random.choice(modes))
        os.utime(path, ns=(10**18 + n, 10**18 + n * 1_000_003))
    subprocess.run(["setfacl", "-m", "u:daemon:r", f"{top}/d{d}/file-0"], check=True)
write(f"{top}/large", os.urandom(9_000_000))
os.mkfifo(f"{top}/fifo")
os.symlink("nowhere", f"{top}/dangling")
for d in range(40):
    os.utime(f"{top}/d{d}", ns=(10**18, 10**18 + d * 1_000_000_007))
"#;

fn make_tree(m: &Mounted) -> PathBuf {
    m.py(MAKE_TREE);
    m.tmp().join("tree")
}

fn all_equal(m: &Mounted, original: &Path, copy: &str) {
    m.trees_equal("all", original, &m.safe().join(copy));
    m.trees_equal("all", original, &m.data().join(copy));
}

same!(tar, |m| {
    let tree = make_tree(m);
    let tar = "tar --format=pax --xattrs --xattrs-include='*' --acls";
    m.sh(&format!(
        "{tar} -C $TMPDIR -cf $TMPDIR/t.tar tree; {tar} -xpf $TMPDIR/t.tar"
    ));
    all_equal(m, &tree, "tree");
    m.sh(&format!(
        "{tar} -xpf $TMPDIR/t.tar; {tar} --diff -f $TMPDIR/t.tar"
    ));
    all_equal(m, &tree, "tree");
    m.sh(&format!(
        "{tar} -cf again.tar tree; mkdir out; {tar} -xpf again.tar -C out; rm -r tree"
    ));
    all_equal(m, &tree, "out/tree");
});

same!(cp_and_rsync, |m| {
    let tree = make_tree(m);
    m.sh("cp -a $TMPDIR/tree copied");
    all_equal(m, &tree, "copied");
    m.sh("cp -a copied again");
    all_equal(m, &tree, "again");
    m.sh("rsync -aHAX $TMPDIR/tree/ synced");
    all_equal(m, &tree, "synced");
    assert_eq!(
        m.sh("rsync -aHAXi $TMPDIR/tree/ synced"),
        "",
        "a second rsync"
    );
    m.sh("rm copied/d3/file-1; chmod u+w copied/d4/file-2; echo changed > copied/d4/file-2; rsync -aHAX --checksum --delete $TMPDIR/tree/ copied");
    all_equal(m, &tree, "copied");
    m.sh(
        "rsync -aHAX --inplace synced/ inplace; rsync -aHAX inplace/ $TMPDIR/back; mv again moved",
    );
    all_equal(m, &tree, "inplace");
    all_equal(m, &tree, "moved");
    m.trees_equal("all", &tree, &m.tmp().join("back"));
});

same!(
    /// rsync writes into the file that is there, or behind its end; a partial transfer is gone on with.
    rsync_into_files,
    |m| {
        m.py(r#"
for name in ("a", "b", "c"):
    write(f"{TMP}/{name}", os.urandom(3_000_000))
def rsync(*options):
    subprocess.run(["rsync", "-aI", "--no-whole-file", *options, f"{TMP}/a", f"{TMP}/b", f"{TMP}/c", "."], check=True)
    for name in ("a", "b", "c"):
        equal(hashlib.sha256(read(name)).digest(), hashlib.sha256(read(f"{TMP}/{name}")).digest(), f"{name} {options}")
rsync()
def change(name, at, content):
    with open(f"{TMP}/{name}", "r+b") as f:
        f.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        f.write(content)
change("a", 1_000_000, b"changed" * 100)
change("b", 0, b"the beginning")
rsync("--inplace")
with open(f"{TMP}/c", "ab") as f:
    f.write(os.urandom(500_000))
rsync("--append")
with open(f"{TMP}/c", "ab") as f:
    f.write(os.urandom(500_000))
rsync("--append-verify")
os.truncate("c", 1000)
rsync("--append")
change("a", 5, b"x")
rsync("--partial", "--partial-dir=.partial")
change("a", 6, b"y")
rsync("--delay-updates")
change("a", 7, b"z")
rsync("--backup", "--suffix=.old")
assert os.path.exists("a.old")
assert {"a", "a.old", "b", "c"} <= set(os.listdir(".")) <= {"a", "a.old", "b", "b.old", "c", "c.old"}
"#);
    }
);

same!(
    /// Archivers that seek back into what they write, and extract over what is there.
    zip_and_others,
    |m| {
        m.py(r#"
import zipfile, tarfile, shutil, gzip, bz2, lzma
os.mkdir("t")
for n in range(50):
    write(f"t/f{n}", os.urandom(n * 500))
with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as z:
    for n in range(50):
        z.write(f"t/f{n}")
with zipfile.ZipFile("a.zip", "a") as z:
    z.writestr("added", "text")
with zipfile.ZipFile("a.zip") as z:
    equal((z.testzip(), len(z.namelist())), (None, 51))
    z.extractall("out")
equal(sorted(os.listdir("out/t")), sorted(os.listdir("t")))
with tarfile.open("a.tar", "w") as t:
    t.add("t")
with tarfile.open("a.tar", "a") as t:
    t.add("a.zip")
with tarfile.open("a.tar") as t:
    equal(len(t.getnames()), 52)
    t.extractall("out2", filter="data") if hasattr(tarfile, "data_filter") else t.extractall("out2")
for module, name in ((gzip, "f.gz"), (bz2, "f.bz2"), (lzma, "f.xz")):
    with module.open(name, "wb") as f:
        f.write(b"one" * 1000)
    with module.open(name, "ab") as f:
        f.write(b"two")
    equal(module.open(name).read(), b"one" * 1000 + b"two")
shutil.copytree("t", "t2")
shutil.make_archive("made", "gztar", "t")
shutil.rmtree("t2")
"#);
    }
);

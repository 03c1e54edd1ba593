//! Whole programs: the same commands leave the same in the mount as in a plain directory.

use crate::harness::{Mounted, same};
use std::path::{Path, PathBuf};
use std::time::Duration;

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

same!(git, |m| {
    m.sh(
        r#"git config --global user.name Test; git config --global user.email test@example.org
        git config --global init.defaultBranch main
        mkdir $TMPDIR/origin; cd $TMPDIR/origin; git init -q
        for n in $(seq 300); do mkdir -p d$((n % 9)); seq $n > d$((n % 9))/f$n; done
        git add .; git commit -qm first; echo x >> d1/f1; git commit -qam second"#,
    );
    m.sh_same(
        "content,-/.git,.git",
        r#"export GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
        git clone -q $TMPDIR/origin work; cd work; git fsck --full --strict --no-progress; git status --porcelain
        for n in $(seq 10); do echo $n >> d2/f2; echo new > new$n; git add .; git commit -qm "commit $n"; done
        git checkout -qb topic HEAD~5; git mv d1 moved; git commit -qm moved
        git checkout -q main; git merge -q --no-edit topic; git rm -qr d3; git stash -q; git stash pop -q
        git commit -qam removed; git tag -a v1 -m tag; git gc -q --prune=now; git fsck --full --strict --no-progress
        git status --porcelain; git log --format='%H %T %s' | sha256sum; git count-objects -v | grep -v size
        git worktree add -q ../other v1; cd ../other; git status --porcelain; git rev-parse HEAD"#,
    );
});

same!(sed_perl_and_shell_tools, |m| {
    m.sh_same(
        "content,mode,owner,links,xattrs",
        r#"umask 022; seq 2000 > f; chmod 751 f; setfattr -n user.k -v v f
        sed -i 's/1/one/g' f; sed -i.bak 's/2/two/g' f
        cp f g; perl -pi -e 's/3/three/' g; sort -r -o g g; shuf --random-source=f -o h f
        cp f i; truncate -s 100 i; dd if=f of=i bs=10 seek=3 count=2 conv=notrunc status=none
        tee j < f > /dev/null; tee -a j < g | tail -3; install -m 600 f k; ln -sf f l; ln -f f m
        gzip -fkn f; zcat f.gz | cmp - f; split -l 500 h part-; cat part-* | cmp - h
        mv part-aa part-ab; patch -s f <<< "$(diff -u f g || true)"; cmp f g
        awk '{ print > ($1 ".out") }' <<< $'a\nb\na'; mktemp -p . fixed.XXXX > /dev/null; rm fixed.*
        find . -name '*.out' -exec rm {} +; touch -d @1000000000 g; chmod 444 h"#,
    );
});

same!(
    /// vim in each way that it has to save, with and without backup files.
    vim,
    |m| {
        m.sh_same(
            "content,mode,owner,links,xattrs,-.viminfo",
            r#"umask 022
            for how in auto yes no; do for backup in backup nobackup; do
                f=$how-$backup; seq 100 > $f; chmod 640 $f; setfattr -n user.k -v v $f
                vim -u NONE -i NONE -n -es -c "set backupcopy=$how $backup nocp" -c '%s/5/five/' -c wq $f
                vim -u NONE -i NONE -es -c "set backupcopy=$how $backup swapfile updatecount=1 fsync" -c 'normal Gohello' -c 'w' -c 'normal Goagain' -c wq $f
                vim -u NONE -i NONE -es -c 'normal inew file' -c wq new-$f
            done; done
            ln auto-backup hard; ln -s yes-backup soft
            for f in hard soft; do vim -u NONE -i NONE -es -c 'normal Golinked' -c wq $f; done"#,
        );
    }
);

same!(
    /// nano at a terminal: change, save, and leave.
    nano,
    |m| {
        for directory in [m.plain(), m.safe().to_owned()] {
            m.py_within(
                Duration::from_secs(60),
                &format!("os.chdir({:?})\n{NANO}", directory.display().to_string()),
            );
        }
        m.trees_equal("content,mode,owner", &m.plain(), m.safe());
        assert_eq!(m.in_data("f"), "typed in nano\nold line\n");
        assert_eq!(m.in_data("new"), "typed in nano\n");
    }
);

const NANO: &str = r#"
import pty

def edit(name, keys):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("nano", ["nano", "-I", name])
    screen = b""
    def until(text):
        nonlocal screen
        deadline = time.monotonic() + 20
        while text not in screen:
            assert select.select([terminal], [], [], deadline - time.monotonic())[0], (text, screen)
            screen += os.read(terminal, 65536)
        screen = b""
    until(b"Help")
    for text, answer in keys:
        os.write(terminal, text)
        until(answer)
    os.write(terminal, b"\x18")
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass
    equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, "nano")

write("f", "old line\n")
for name in ("f", "new"):
    keys = [(b"typed in nano", b"nano")]
    keys += [(b"\r", b"")] if name == "f" else []
    edit(name, keys + [(b"\x0f", b"Write"), (b"\r", b"Wrote")])
"#;

same!(
    /// A package from a wheel that is made on the spot: no network is needed.
    pip_install,
    |m| {
        m.py(MAKE_WHEEL);
        m.sh_same(
            "content,mode,owner,-direct_url,-RECORD,-__pycache__",
            r#"umask 022; pip="/usr/bin/env python3 -m pip --disable-pip-version-check --no-cache-dir -q"
            export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PYTHONPATH=
            $pip install --no-index --target site $TMPDIR/little-1.0-py3-none-any.whl
            PYTHONPATH=site python3 -c 'import little; print(little.VALUE, len(little.NAMES))'
            $pip install --no-index --target site --upgrade $TMPDIR/little-1.1-py3-none-any.whl
            PYTHONPATH=site python3 -c 'import little; print(little.VALUE, len(little.NAMES))'
            python3 -m compileall -q site; PYTHONPATH=site python3 -c 'import little.part7; print(little.part7.N)'"#,
        );
    }
);

const MAKE_WHEEL: &str = r#"
import base64, zipfile
for number in ("1.0", "1.1"):
    info = f"little-{number}.dist-info"
    files = {"little/__init__.py": f"VALUE = '{number}'\nfrom pathlib import Path\nNAMES = sorted(p.name for p in Path(__file__).parent.glob('*.py'))\n"}
    for n in range(40):
        files[f"little/part{n}.py"] = f"N = {n}\n" * (n + 1)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: little\nVersion: {number}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join(record + [f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(f"{TMP}/little-{number}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
"#;

same!(
    /// What was just built starts: no ETXTBSY, no half a program.
    built_programs_start,
    |m| {
        m.sh(r#"printf '#include <stdio.h>\nint main(void) { printf("%%d\\n", N); return 0; }\n' > p.c
            for n in $(seq 40); do gcc -DN=$n -o p p.c && test "$(./p)" = $n; done
            for n in $(seq 300); do printf '#!/bin/sh\necho %s\n' $n > s; chmod +x s; test "$(./s)" = $n; done
            printf 'all: a b\na b: p.c\n\tgcc -DN=7 -o $@ $<\n' > Makefile; make -sj2; ./a; ./b; make -s
            ar rc lib.a p.c; ar t lib.a; strip a; ./a"#);
        m.py(r#"
program = read("/bin/true")
for number in range(100):
    write("true", program)
    os.chmod("true", 0o755)
    subprocess.run(["./true"], check=True)
"#);
    }
);

same!(cargo_build, |m| {
    let sysroot = std::process::Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--print", "sysroot"])
        .output()
        .expect("ask rustc for its directory");
    let sysroot = String::from_utf8(sysroot.stdout).expect("a path in UTF-8");
    let rust = m.lend(Path::new(sysroot.trim()), "rust");
    m.sh(&format!(
        r#"export PATH={}/bin:$PATH CARGO_HOME=$HOME/cargo CARGO_INCREMENTAL=1; unset RUSTUP_TOOLCHAIN
        cargo new -q --vcs none --name little crate; cd crate; mkdir src/bin
        echo 'pub fn value() -> u32 {{ 1 }} #[test] fn it() {{ assert!(value() > 0); }}' > src/lib.rs
        echo 'fn main() {{ println!("{{}}", little::value()); }}' > src/main.rs
        cargo build -q --offline; test "$(./target/debug/little)" = 1; cargo test -q --offline > /dev/null
        sleep 1; sed -i 's/1/2/' src/lib.rs; test "$(cargo run -q --offline)" = 2
        cargo build --offline 2>&1 | tee log.txt; if grep -q Compiling log.txt; then exit 1; fi
        cargo build -q --offline --release; test "$(./target/release/little)" = 2; cargo clean -q; test ! -e target"#,
        rust.display()
    ));
});

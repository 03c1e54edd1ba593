//! Editors, and what edits from the command line.

use std::time::Duration;

use crate::harness::same;

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
    /// A second vim sees the first one's swap file, and what a killed vim had not saved is recovered from it.
    vim_swap_files,
    |m| {
        m.py(VIM);
    }
);

const VIM: &str = r#"
import pty

class Vim:
    def __init__(self, *arguments):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvp("vim", ["vim", "-u", "NONE", "-i", "NONE", "-c", "set nocp updatecount=1 noshowcmd", *arguments])
        self.screen = b""

    def until(self, condition, what):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (what, self.screen)
            if select.select([self.terminal], [], [], 0.02)[0]:
                self.screen += os.read(self.terminal, 65536)

    def sees(self, text):
        self.until(lambda: text in self.screen, text)
        self.screen = b""

    def keys(self, text):
        os.write(self.terminal, text)

    def ends(self):
        try:
            while os.read(self.terminal, 65536):
                pass
        except OSError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

write("f", "old line\n")
for how in ("yes", "no"):
    first = Vim("-c", f"set backupcopy={how}", "f")
    first.sees(b"line")
    first.keys(b"ggOtyped by the first\x1b")
    first.until(lambda: os.path.exists(".f.swp") and b"typed by the first" in read(".f.swp"), "the swap file")
    second = Vim("f")
    second.sees(b"swap file")
    second.until(lambda: True, "")
    second.keys(b"q")
    second.ends()
    assert b"typed" not in read("f").split(b"\n")[0] or how == "no"
    first.keys(b":w\r")
    first.until(lambda: b"typed by the first" in read("f"), "saved")
    os.kill(first.pid, signal.SIGKILL)
    first.ends()
    assert os.path.exists(".f.swp"), "the swap file is gone"
    os.unlink(".f.swp")

# Killed with a change that was not saved: vim -r has it.
write("g", "old line\n")
killed = Vim("g")
killed.sees(b"line")
killed.keys(b"ggOnever saved\x1b")
killed.until(lambda: os.path.exists(".g.swp") and b"never saved" in read(".g.swp"), "the swap file")
os.kill(killed.pid, signal.SIGKILL)
killed.ends()
equal(read("g"), b"old line\n")
subprocess.run(["vim", "-u", "NONE", "-i", "NONE", "-es", "-r", "-c", "w! recovered", "-c", "q!", "g"], timeout=30)
equal(read("recovered"), b"never saved\nold line\n")
"#;

same!(
    /// An office suite converts a document and saves over it: a dance of lock file, temporary file and renames.
    libreoffice,
    Setup::needs(&["soffice"]),
    |m| {
        m.sh(r#"printf 'a,b\n1,2\n' > t.csv
            office() { timeout 100 soffice -env:UserInstallation=file://$HOME/office --headless "$@" > /dev/null; }
            office --convert-to ods t.csv; office --convert-to xlsx t.ods; office --convert-to csv:"Text - txt - csv (StarCalc)" --outdir out t.xlsx
            office --convert-to ods t.csv; cmp t.csv out/t.csv; test -z "$(ls -A | grep '^[.]~lock' || true)"
            python3 -c 'import zipfile; assert zipfile.ZipFile("t.ods").testzip() is None'"#);
    }
);

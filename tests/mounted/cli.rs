//! The command line on real mounts: starting, ending, refusing, as root and as an ordinary user.

mod abandoned;
mod channel;
mod commands;
mod daemon;
mod foreign;
mod serving;
mod site;
mod taken;
mod words;

use crate::harness::Mounted;

/// How scripts run commands.
const COMMON: &str = r#"
POLYSTORE = os.environ["POLYSTORE"]

def polystore(*arguments, text=True, **keywords):
    """Runs a command to its end."""
    if "input" not in keywords:
        keywords.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([POLYSTORE, *arguments], capture_output=True, text=text, timeout=100, **keywords)

def start(*arguments, **keywords):
    """Starts one, connected by pipes."""
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen([POLYSTORE, *arguments], text=True, **pipes, **keywords)

class Held:
    """The turn at a lock file, held by a process that starts none of the others: those would pass."""

    def __init__(self, path):
        def hold(line):
            fd = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
            fcntl.flock(fd, fcntl.LOCK_EX)
            line.say("held")
            time.sleep(100)
        self.holder = Worker(hold)

    def __enter__(self):
        equal(self.holder.hear(), "held")

    def __exit__(self, *_):
        self.holder.kill()
        self.holder.wait()
"#;

/// Runs a Python script in a plain directory.
fn plainly(m: &Mounted, script: &str) {
    m.py(&format!(
        "{COMMON}\nMOUNTED = False\nos.chdir(PLAIN)\n{script}"
    ));
}

/// Runs a Python script in a plain directory and in a mount.
fn both(m: &Mounted, script: &str) {
    plainly(m, script);
    m.py(&format!("{COMMON}\nMOUNTED = True\n{script}"));
}

//! Descriptors that are inherited, passed on, or never closed.

use crate::harness::{mount_only, same};

same!(
    /// What shells do with redirections: each form leaves what it leaves in a plain directory.
    redirections,
    |m| {
        m.sh_same(
            "content,mode",
            r#"umask 022
            (echo a; echo b) > f1; { echo a; (echo b); /bin/echo c; } > f2; (echo a; echo b >&2) > f3 2>&1; (echo out; echo err >&2) &> f4
            exec 3> f5; echo one >&3; (echo two >&3); sh -c 'echo three >&3'; exec 3>&-
            exec 3<> f5; read -r line <&3; echo "$line and" >&3; exec 3>&-
            for i in 1 2 3; do echo $i; done > f6; for i in 4 5; do echo $i >> f6; done
            seq 5 | while read -r n; do echo "n $n"; done > f7; (seq 3; seq 4) | tee f8 > f9
            echo one > f10; echo two >> f10; cat f10 f10 > f11; sort -r f11 -o f11; cat < f11 > f12; cat f10 >> f11
            echo a | tee f13 f14 > f15; tee f16 <<< text | cat; xargs -n1 sh -c 'echo $0 >> f17' <<< "a b c"
            (exec > f18; echo one; exec 2>&1; echo two >&2); { echo x; } 3> f19 >&3
            python3 -c 'import subprocess as s
with open("f20", "w") as f: f.write("first\n"); f.flush(); s.run(["echo", "child"], stdout=f); f.write("last\n")
with open("f21", "w") as f: a = [s.Popen(["echo", str(n)], stdout=f) for n in range(3)]; [p.wait() for p in a]' 
            sort f21 -o f21; make -s -f - > f22 <<< $'all:\n\t@echo made\n\t@echo again >> f22'
            find . -name 'f?' -exec cat {} + > all; awk 'BEGIN { print "a" > "f23"; close("f23"); print "b" >> "f23"; system("echo c >> f23") }'
            flock f24 sh -c 'echo locked > f24'; script -qec 'echo typed' f25 > /dev/null; sed -i '/^Script/d' f25
            nohup echo hello > f26 2>&1; setsid -w sh -c 'echo session' > f27; timeout 5 echo timed > f28; env -i echo clean > f29"#,
        );
    }
);

same!(
    /// The parent has closed its own; the child, which inherited it, writes on and then ends.
    the_last_to_close_publishes,
    |m| {
        m.py(r#"
gate, opener = os.pipe()
with open("f", "w") as f:
    f.write("parent\n")
    f.flush()
    child = subprocess.Popen("read line; echo child", shell=True, stdin=gate, stdout=f)
os.write(opener, b"go\n")
equal(child.wait(), 0)
equal(read("f"), b"parent\nchild\n")
# A descriptor that is sent to another process which opened nothing.
left, right = socket.socketpair()
def receives(line):
    _, (fd,), _, _ = socket.recv_fds(right, 10, 1)
    os.write(fd, b"other\n")
    os.close(fd)
worker = Worker(receives)
fd = os.open("g", os.O_WRONLY | os.O_CREAT, 0o644)
os.write(fd, b"own\n")
socket.send_fds(left, [b"x"], [fd])
os.close(fd)
worker.done()
equal(read("g"), b"own\nother\n")
"#);
    }
);

mount_only!(
    /// A daemon that never closes its output: others see nothing of it, its log by a default pattern at once.
    daemons_that_never_close,
    |m| {
        m.py(r#"
write("state.txt", "old\n")
daemon = subprocess.Popen("exec > state.txt 2> daemon.log 3>> appended.txt; echo running; echo told >&2; echo more >&3; touch started; exec sleep 1000", shell=True)
deadline = time.monotonic() + 20
while not os.path.exists("started"):
    assert time.monotonic() < deadline
    time.sleep(0.01)
reader, = peers(1)
equal(reader('read("state.txt")'), b"old\n", "its output")
equal(reader('read("daemon.log")'), b"told\n", "its log")
equal(reader('read("appended.txt")'), b"more\n", "what it appends to")
daemon.kill()
daemon.wait()
equal(read("state.txt"), b"old\n", "after the kill")
"#);
    }
);

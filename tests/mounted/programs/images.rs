//! Disk images: qemu's tools.

use crate::harness::same;

same!(qemu_images, Setup::needs(&["qemu-img", "qemu-io"]), |m| {
    m.sh_same(
            "content,-.qcow2,-.vmdk",
            r#"umask 022
            qemu-img create -q -f qcow2 a.qcow2 64M; qemu-img create -q -f raw r.raw 8M
            io() { qemu-io -f $1 -c "$2" $3 | grep -v ops; }
            io qcow2 "write -P 1 0 1M" a.qcow2; io qcow2 "write -P 2 5M 64k" a.qcow2
            io raw "write -P 3 1M 64k" r.raw; io raw "read -P 3 1M 64k" r.raw
            qemu-img check -q a.qcow2
            qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2
            io qcow2 "write -P 4 512k 1M" top.qcow2; io qcow2 "read -P 1 0 512k" top.qcow2; io qcow2 "read -P 4 512k 1M" top.qcow2
            qemu-img commit -q top.qcow2; io qcow2 "read -P 4 512k 1M" a.qcow2
            qemu-img convert -f qcow2 -O raw a.qcow2 a.raw; qemu-img convert -f raw -O qcow2 a.raw b.qcow2
            qemu-img compare -q a.qcow2 b.qcow2; qemu-img convert -c -O qcow2 a.raw c.qcow2; qemu-img compare -q a.raw c.qcow2
            qemu-img snapshot -c one b.qcow2; io qcow2 "write -P 9 0 4k" b.qcow2; qemu-img snapshot -a one b.qcow2; qemu-img compare -q a.qcow2 b.qcow2
            qemu-img resize -q b.qcow2 100M; qemu-img resize -q -f raw r.raw 16M; stat -c %s r.raw
            qemu-img dd -f raw -O raw bs=64k count=3 if=a.raw of=part.raw; sha256sum part.raw
            for i in a b c top; do qemu-img check -q $i.qcow2; done; qemu-img info b.qcow2 | grep virtual"#,
        );
});

same!(
    /// An image's writer may be killed: what it has flushed is there. A qcow2 image has no second writer.
    images_are_locked,
    Setup::needs(&["qemu-img", "qemu-io"]),
    |m| {
        m.py(r#"
for kind in ("qcow2", "raw"):
    name = f"a.{kind}"
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, name, "16M"], check=True)
    # It says nothing to a pipe before its end.
    terminal, its = os.openpty()
    first = subprocess.Popen(["qemu-io", "-f", kind, name], stdin=subprocess.PIPE, stdout=its)
    for command in (b"write -P 7 0 64k", b"write -P 8 1M 64k"):
        first.stdin.write(command + b"\n")
        first.stdin.flush()
        said = b""
        while b"wrote " not in said or not said.endswith(b"qemu-io> "):
            assert select.select([terminal], [], [], 20)[0], said
            said += os.read(terminal, 1000)
    if kind == "qcow2":
        second = subprocess.run(["qemu-io", "-f", kind, "-c", "write 0 4k", name], capture_output=True, text=True)
        assert second.returncode and "lock" in second.stderr, second
    first.kill()
    first.wait()
    third = subprocess.run(["qemu-io", "-f", kind, "-c", "read -P 7 0 64k", name], capture_output=True, text=True)
    equal((third.returncode, "failed" in third.stdout), (0, False), third.stdout + third.stderr)
    if kind == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", "-r", "leaks", name], check=True)
"#);
    }
);

//! Databases in a file, other than SQLite: LMDB, HDF5, dbm.

use crate::harness::same;

same!(
    /// Writers and readers map one file; what was committed survives a kill; tools look at it meanwhile.
    lmdb,
    Setup::needs(&["python:lmdb", "mdb_stat", "mdb_copy"]),
    |m| {
        m.py(r#"
import lmdb

def writes(line, writer):
    db = lmdb.open("base", map_size=64 << 20)
    number = 0
    while True:
        number += 1
        with db.begin(write=True) as change:
            change.put(b"%d" % writer, b"%d" % number)
            change.put(b"%d-%d" % (writer, number % 50), os.urandom(3000))
        line.say(number)
        time.sleep(random.random() * 0.005)

def stat():
    text = subprocess.run(["mdb_stat", "-e", "base"], check=True, capture_output=True, text=True).stdout
    return int(text.rsplit("Entries: ", 1)[1])

for round in range(3):
    writers = [Worker(writes, writer) for writer in range(3)]
    for writer in writers:
        for _ in range(20):
            writer.said = int(writer.hear())
    assert stat() >= 3
    os.mkdir(f"copy{round}")
    subprocess.run(["mdb_copy", "base", f"copy{round}"], check=True)
    last = []
    for writer in writers:
        writer.kill()
        writer.wait()
        said = writer.said
        try:
            while True:
                said = int(writer.hear())
        except EOFError:
            pass
        last.append(said)
    with lmdb.open("base", map_size=64 << 20) as db, db.begin() as view:
        for writer, said in enumerate(last):
            there = int(view.get(b"%d" % writer))
            assert said <= there <= said + 1, f"said {said}, there is {there}"
    with lmdb.open(f"copy{round}", readonly=True) as db, db.begin() as view:
        assert view.stat()["entries"] >= 3

# A database in one file, without a directory; and a writer whose data is already mapped by a reader.
db = lmdb.open("one.mdb", subdir=False, map_size=8 << 20)
reader, = peers(1)
reader("import lmdb")
with db.begin(write=True) as change:
    change.put(b"k", b"first")
reader('db = lmdb.open("one.mdb", subdir=False, readonly=True)')
reader('get = lambda: db.begin().get(b"k")')
equal(reader("get()"), b"first")
with db.begin(write=True) as change:
    change.put(b"k", b"second")
equal(reader("get()"), b"second")
db.close()
"#);
        assert_eq!(m.sh("mdb_dump -p -n one.mdb | grep -c second"), "1\n");
    }
);

same!(
    /// A file is made, reopened, extended, and locked against others.
    hdf5,
    Setup::needs(&["python:h5py"]),
    |m| {
        m.py(r#"
import h5py, numpy
with h5py.File("a.h5", "w") as f:
    f.create_dataset("x", (100,), maxshape=(None,), chunks=(1000,), dtype="i8")
    f["x"][:] = numpy.arange(100)
    f.attrs["note"] = "first"
for round in range(1, 6):
    with h5py.File("a.h5", "r+") as f:
        x = f["x"]
        x.resize((100 * (round + 1),))
        x[100 * round:] = numpy.arange(100 * round, 100 * (round + 1))
        f.create_group(f"g{round}").create_dataset("y", data=numpy.ones((50, 50)) * round, compression="gzip")
    with h5py.File("a.h5", "r") as f:
        equal(int(f["x"][:].sum()), sum(range(100 * (round + 1))))
        equal(float(f[f"g{round}/y"][49, 49]), round)
with h5py.File("a.h5", "a") as f:
    del f["g1"]
    f.flush()
    equal(sorted(f), ["g2", "g3", "g4", "g5", "x"])
# HDF5 locks the file: no second writer, no reader beside a writer; many readers.
a, b = peers(2)
for peer in (a, b):
    peer("import h5py")
a('f = h5py.File("a.h5", "r+")')
for mode in ("r+", "r"):
    try:
        b(f'f = h5py.File("a.h5", "{mode}")')
        raise SystemExit(f"opened with {mode} beside a writer")
    except BlockingIOError:
        pass
a("f.close()")
a('f = h5py.File("a.h5", "r")')
b('f = h5py.File("a.h5", "r")')
equal(b('int(f["x"][5])'), 5)
a("f.close()")
b("f.close()")
# One writer and a reader that follows it, as HDF5 means it.
a('f = h5py.File("swmr.h5", "w", libver="latest")')
a('x = f.create_dataset("x", (0,), maxshape=(None,), chunks=(10,), dtype="i8")')
a("f.swmr_mode = True")
b('f = h5py.File("swmr.h5", "r", libver="latest", swmr=True)')
a("x.resize((10,))")
a("x[:] = range(10)")
a("f.flush()")
b('f["x"].refresh()')
equal(b('int(f["x"][:].sum())'), 45)
a("f.close()")
b("f.close()")
"#);
    }
);

same!(
    /// What comes with Python: dbm and shelve; and mailboxes, which are locked.
    dbm_and_mailbox,
    |m| {
        m.py(r#"
import dbm, mailbox, shelve
for name in ("gnu", "ndbm", "dumb"):
    try:
        module = __import__(f"dbm.{name}", fromlist=["open"])
    except ImportError:
        continue
    with module.open(f"base-{name}", "c") as db:
        for n in range(200):
            db[b"%d" % n] = b"v" * n
    with module.open(f"base-{name}", "w") as db:
        db[b"7"] = b"changed"
        del db[b"8"]
    with module.open(f"base-{name}", "r") as db:
        equal((db[b"7"], b"8" in db, len(db.keys())), (b"changed", False, 199), name)
with shelve.open("shelf", writeback=True) as shelf:
    shelf["list"] = [1]
    shelf["list"].append(2)
with shelve.open("shelf") as shelf:
    equal(shelf["list"], [1, 2])

def delivers(line, number):
    box = mailbox.mbox("box")
    for n in range(10):
        while True:
            try:
                box.lock()
                break
            except mailbox.ExternalClashError:
                time.sleep(0.002)
        box.add(f"Subject: {number} {n}\n\ntext\n")
        box.flush()
        box.unlock()
    box.close()
write("box", "")
workers = [Worker(delivers, n) for n in range(4)]
for worker in workers:
    worker.done()
subjects = sorted(message["Subject"] for message in mailbox.mbox("box"))
equal(subjects, sorted(f"{a} {b}" for a in range(4) for b in range(10)))
"#);
    }
);

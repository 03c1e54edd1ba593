//! Version control: git, Mercurial, Subversion.

use crate::harness::same;

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
        git worktree add -q ../other v1; cd ../other; git status --porcelain; git rev-parse HEAD
        cd ../work; git checkout -q topic~0 2> /dev/null; git checkout -qb more HEAD~2; echo m > m; git add m; git commit -qm more
        git rebase -q main; git -c core.editor=true rebase -q -i --exec true HEAD~3; git reset -q --hard HEAD~1; git cherry-pick topic~0 > /dev/null 2>&1 || git cherry-pick --abort
        git config user.nick me; git config user.nick; git notes add -m note; git repack -qad; git pack-refs --all; git worktree remove ../other
        git submodule -q add $TMPDIR/origin sub 2> /dev/null || true; git archive HEAD | sha256sum; git fsck --full --strict --no-progress; git status --porcelain"#,
    );
});

same!(
    /// Many commits at once: each takes index.lock, and who finds it taken says so.
    git_by_several_processes,
    |m| {
        m.py(r#"
subprocess.run("git init -q -b main shared && cd shared && git config user.name T && git config user.email t@example.org && git commit -q --allow-empty -m start", shell=True, check=True)
os.chdir("shared")
def commits(line, worker):
    for n in range(8):
        write(f"w{worker}-{n}", f"{worker} {n}\n")
        while True:
            done = subprocess.run(f"git add w{worker}-{n} && git commit -q -m '{worker} {n}' w{worker}-{n}", shell=True, capture_output=True, text=True)
            if done.returncode == 0:
                break
            assert "lock" in done.stderr or "cannot lock ref" in done.stderr, done
            time.sleep(random.random() * 0.02)
workers = [Worker(commits, worker) for worker in range(4)]
for worker in workers:
    worker.done()
names = subprocess.run("git fsck --strict --no-progress --no-dangling && git status --porcelain && git ls-tree -r --name-only HEAD", shell=True, check=True, capture_output=True, text=True).stdout.split()
equal(sorted(names), sorted(f"w{a}-{b}" for a in range(4) for b in range(8)))
equal(subprocess.run("git rev-list --count HEAD", shell=True, capture_output=True, text=True).stdout, "33\n")
"#);
    }
);

same!(
    /// Mercurial appends to its histories, cuts them when it strips or rolls back, and hardlinks clones.
    mercurial,
    Setup::needs(&["hg"]),
    |m| {
        let history = m.sh(
            r#"export HGPLAIN=1 HGUSER='Test <test@example.org>'
            hg() { command hg --config extensions.strip= --config extensions.rebase= "$@"; }
            hg init work; cd work
            for n in 1 2 3 4; do for f in a b; do seq $((n * 100)) > $f$n; echo $n >> $f; done; hg commit -q -A -d "$n 0" -m "commit $n"; done
            hg strip -q -r 2; hg verify -q; hg unbundle -q .hg/strip-backup/*-backup.hg
            hg clone -q . ../other; cd ../other; echo o >> b; hg commit -q -d '10 0' -m other; hg push -q
            cd ../work; hg update -q -r 0; echo x > x; hg commit -q -A -d '11 0' -m branch; hg rebase -q -d 4; hg verify -q
            hg status; hg log -T '{rev} {desc} {node|short}\n'"#,
        );
        let known: Vec<&str> = history.lines().map(|line| &line[..line.len() - 13]).collect();
        assert_eq!(
            known,
            ["5 branch", "4 other", "3 commit 4", "2 commit 3", "1 commit 2", "0 commit 1"]
        );
    }
);

same!(
    /// Subversion: its repository is a tree of small files, its working copy an SQLite database.
    subversion,
    Setup::needs(&["svn", "svnadmin"]),
    |m| {
        m.sh(r#"svnadmin create repository; svn -q checkout file://$PWD/repository work; cd work
            for n in $(seq 30); do seq $n > f$n; done; svn -q add f*; svn -q commit -m first
            for n in $(seq 5); do echo $n >> f1; svn -q commit -m "again $n"; done
            svn -q mv f2 g2; svn -q commit -m moved; svn -q update; svn -q update -r 2; test -e f2; svn -q update
            svn status | wc -l | grep -x 0; svn cleanup; svnadmin verify -q ../repository; svnadmin pack -q ../repository
            svn log -q | grep -c '^r' | grep -x 7"#);
    }
);

//! The examples of `mount/SEMANTICS.md`, run as they stand there.
//!
//! A block marked `console` is a session: what stands behind `$ ` is given to one
//! bash, line by line, in a directory of its own in the mount; what it prints, errors too, must
//! be the other lines of the block.

use crate::harness::mount_only;

const SEMANTICS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/SEMANTICS.md"));

struct Example {
    line: usize,
    commands: String,
    printed: String,
}

fn examples(document: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut inside = false;
    for (number, line) in document.lines().enumerate() {
        if line == "```console" {
            inside = true;
            examples.push(Example {
                line: number + 1,
                commands: String::new(),
                printed: String::new(),
            });
        } else if line == "```" {
            inside = false;
        } else if inside && let Some(example) = examples.last_mut() {
            let (to, text) = match line.strip_prefix("$ ") {
                Some(command) => (&mut example.commands, command),
                None => (&mut example.printed, line),
            };
            to.push_str(text);
            to.push('\n');
        }
    }
    examples
}

mount_only!(
    /// Every example prints what the document says.
    the_examples_are_true,
    |m| {
        let examples = examples(SEMANTICS);
        assert!(examples.len() >= 8, "the document has lost its examples");
        for example in examples {
            let script = m.tmp().join(format!("example-{}.sh", example.line));
            std::fs::write(&script, &example.commands).expect("the script");
            let dir = format!("line-{}", example.line);
            let printed = m.sh(&format!(
                "mkdir {dir}; cd {dir}; LC_ALL=C.UTF-8 LANGUAGE=en bash {} 2>&1 || :",
                script.display()
            ));
            let line = example.line;
            assert_eq!(printed, example.printed, "SEMANTICS.md, example in line {line}");
        }
    }
);

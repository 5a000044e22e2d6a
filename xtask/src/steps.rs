//! Steps of a task: a title, a command, how long it took, and what reproduces a failure.
//!
//! Invariant: the first failure ends the task, and the command that repeats it is the last thing
//! that is said before the summary.

use anyhow::{Context as _, bail};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command with a title.
#[derive(Clone, Debug)]
pub struct Step {
    title: &'static str,
    program: String,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    counts_tests: bool,
}

impl Step {
    /// A cargo command.
    pub fn cargo(title: &'static str, args: &str) -> Self {
        let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let args = args.split_whitespace().map(str::to_owned).collect();
        Self { title, program, args, env: Vec::new(), counts_tests: false }
    }
    /// With this in its environment.
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }
    /// Its tests are counted; otherwise the step counts as one check.
    pub fn counting_tests(mut self) -> Self {
        self.counts_tests = true;
        self
    }

    /// As it would be typed.
    fn command_line(&self) -> String {
        let env = self.env.iter().map(|(name, value)| {
            let value = if value.contains(' ') { format!("'{value}'") } else { value.clone() };
            format!("{name}={value} ")
        });
        format!("{}cargo {}", env.collect::<String>(), self.args.join(" "))
    }
}

/// Runs steps and remembers how they went.
#[derive(Debug)]
pub struct Runner {
    root: PathBuf,
    total: usize,
    started: Instant,
    done: Vec<(&'static str, Duration)>,
    counted: Counted,
}

/// Tests, and steps that are one check each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Runner {
    /// `total` steps are going to be run in the repository `root`.
    pub fn new(root: PathBuf, total: usize) -> Self {
        let started = Instant::now();
        Self { root, total, started, done: Vec::new(), counted: Counted::default() }
    }

    /// Runs a command.
    pub fn run(&mut self, step: &Step) -> anyhow::Result<()> {
        let line = step.command_line();
        let mut found = Counted::default();
        let root = self.root.clone();
        let outcome = self.timed(step.title, &line, || {
            let ok;
            (ok, found) = execute(step, &root)?;
            if ok { Ok(()) } else { bail!("it failed; to repeat it: {line}") }
        });
        if step.counts_tests {
            self.counted.passed += found.passed;
            self.counted.ignored += found.ignored;
            // Without a failed test, something else failed: the build, for one.
            self.counted.failed += found.failed.max(outcome.is_err().into());
        } else {
            self.count(outcome.is_ok());
        }
        outcome
    }

    /// Runs something that is no command.
    pub fn step(
        &mut self,
        title: &'static str,
        how: &str,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let outcome = self.timed(title, how, work);
        self.count(outcome.is_ok());
        outcome
    }

    fn count(&mut self, ok: bool) {
        self.counted.passed += u64::from(ok);
        self.counted.failed += u64::from(!ok);
    }

    fn timed(
        &mut self,
        title: &'static str,
        how: &str,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        println!("\n── {}/{} {title}: {how}", self.done.len() + 1, self.total);
        let started = Instant::now();
        let outcome = work();
        let took = started.elapsed();
        match &outcome {
            Ok(()) => {
                println!("── ok in {}", seconds(took));
                self.done.push((title, took));
            }
            Err(error) => println!("── FAILED after {}: {title}: {error:#}", seconds(took)),
        }
        outcome
    }

    /// Prints what took how long, and the closing line.
    pub fn summary(&self) {
        println!("\nSteps that passed, and how long they took:");
        for (title, took) in &self.done {
            println!("{:>10}  {title}", seconds(*took));
        }
        println!(
            "{:>10}  in all, {} of {} steps",
            seconds(self.started.elapsed()),
            self.done.len(),
            self.total
        );
        println!("Tests and other checks together:");
        let Counted { passed, failed, ignored } = self.counted;
        let skipped = if ignored > 0 { format!(", {ignored} skipped") } else { String::new() };
        println!("{passed} passed, {failed} failed{skipped}");
    }
}

fn execute(step: &Step, root: &std::path::Path) -> anyhow::Result<(bool, Counted)> {
    let mut command = Command::new(&step.program);
    command.args(&step.args).envs(step.env.iter().cloned()).current_dir(root);
    let cannot = || format!("cannot run {}", step.program);
    if !step.counts_tests {
        return Ok((command.status().with_context(cannot)?.success(), Counted::default()));
    }
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(cannot)?;
    let out = child.stdout.take().expect("it was asked for");
    let mut counted = Counted::default();
    for line in BufReader::new(out).lines() {
        let line = line.context("a test printed something that is not text")?;
        counted.add(&line);
        println!("{line}");
    }
    Ok((child.wait()?.success(), counted))
}

impl Counted {
    /// Adds what `test result: ok. 31 passed; 0 failed; 0 ignored; …` says.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) =
            line.split_once("test result: ").and_then(|(_, r)| r.split_once(". "))
        else {
            return;
        };
        for part in counts.split(';') {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// A duration for people.
pub fn seconds(took: Duration) -> String {
    let all = took.as_secs();
    if all < 60 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{} min {:02} s", all / 60, all % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_from_their_closing_lines() {
        let mut counted = Counted::default();
        counted.add("test a ... ok");
        counted.add("test result: ok. 31 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        counted
            .add("test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 9 filtered out");
        assert_eq!(counted, Counted { passed: 32, failed: 3, ignored: 2 });
    }

    #[test]
    fn a_failed_step_is_counted_and_ends_with_the_command_that_repeats_it() {
        let mut runner = Runner::new(crate::root(), 2);
        runner.step("fine", "nothing", || Ok(())).unwrap();
        let step = Step::cargo("wrong", "no-such-command --x").env("A", "b c");
        assert!(
            runner
                .run(&step)
                .unwrap_err()
                .to_string()
                .contains("A='b c' cargo no-such-command --x")
        );
        assert_eq!(runner.counted, Counted { passed: 1, failed: 1, ignored: 0 });
    }
}

//! `kvmpilot top` in a real terminal emulator, on real guests: live rows, keys, another size, a daemon that goes away and
//! comes back, and a terminal that is as before at the end, whatever ended it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::{Daemon, program};
use kvmpilot_tests::guests::web;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Terminal, Work, output_of, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "[modes]\ndefault = \"observe\"\nweight = \"auto\"\n[weight]\nperiod = \"1s\"\n[loops]\n\
                      cycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"20s\"\n[[domain]]\nname = \"web\"\n\
                      class = \"latency\"\n[[domain]]\nname = \"burner\"\nclass = \"batch\"\n";

fn burner() -> GuestSpec {
    let hog = |number: u32| Work::Hog(format!("cruncher{number}"));
    GuestSpec::new("burner", 61).vcpus(2).memory_mib(256).without_agent().runs(hog(1)).runs(hog(2))
}

/// Starts `kvmpilot top` in the terminal, as a person does.
fn start(terminal: &Terminal<'_>, daemon: &str, more: &str) -> Result<()> {
    let kvmpilot = program("kvmpilot")?;
    terminal.types(&format!("clear; {} --socket {daemon} top {more}", kvmpilot.display()))?;
    terminal.press("Enter")?;
    terminal.shows("the list", |screen| has(screen, "DOMAINS 2 of 2")).map(drop)
}

fn has(screen: &[String], text: &str) -> bool {
    screen.iter().any(|line| line.contains(text))
}

/// The words of the row of a domain.
fn row<'a>(screen: &'a [String], domain: &str) -> Result<Vec<&'a str>> {
    let row = screen.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    row.into_iter().find(|words| words.first() == Some(&domain)).with_context(|| screen.join("\n"))
}

/// The line with the names of the columns, and the rows below it.
fn rows(screen: &[String]) -> Result<(&str, Vec<&str>)> {
    let titles = screen.iter().position(|line| line.starts_with("DOMAIN ")).context("no titles")?;
    let rows = screen[titles + 1..].iter().map(String::as_str).take_while(|line| !line.is_empty());
    Ok((&screen[titles], rows.collect()))
}

/// Every line fits, and what is drawn has all lines of the terminal.
fn fits(screen: &[String], width: usize, height: usize) -> Result<()> {
    ensure!(screen.len() <= height, "{} lines", screen.len());
    ensure!(screen.last().is_some_and(|line| line.contains("q quit")), "{screen:?}");
    let wide = screen.iter().find(|line| line.chars().count() > width);
    ensure!(wide.is_none(), "too wide: {wide:?}");
    Ok(())
}

#[test]
fn top_is_right_in_a_terminal() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![web(), burner()] })?;
    lab.wait_agents(BOOT)?;
    let began = Instant::now();
    let daemon = lab.start_daemon("d", CONFIG)?;
    let socket = lab.state_dir().join("d/sock").display().to_string();
    wait_for("figures, processes and a change", PATIENCE, || {
        let view = daemon.json(&["domains"])?;
        let rows = view["domains"].as_array().context("no domains")?;
        ensure!(rows.len() == 2 && rows.iter().all(|row| row["wait_ratio"].is_number()), "{view}");
        let processes = daemon.json(&["processes", "web"])?;
        ensure!(processes["applications"].as_array().is_some_and(|all| !all.is_empty()), "{processes}");
        ensure!(
            daemon.orders()?.iter().any(|order| order["state"] == "verified" || order["state"] == "kept")
        );
        Ok(())
    })
    .with_context(|| daemon.log())?;
    println!("there was something to see after {:.1} s", began.elapsed().as_secs_f64());

    once_is_plain(&daemon)?;
    let terminal = lab.terminal(80, 24)?;
    let before = tty(&terminal)?;
    start(&terminal, &socket, "--interval 500ms")?;
    the_list_is_live_and_sorts(&terminal)?;
    it_filters(&terminal)?;
    it_looks_into_a_domain(&terminal)?;
    another_size(&terminal)?;
    let daemon = it_survives_the_daemon(&lab, &terminal, daemon)?;
    terminal.press("q")?;
    is_restored(&terminal, &before).context("after q")?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        start(&terminal, &socket, "")?;
        kill(Pid::from_raw(terminal.foreground()?), signal)?;
        is_restored(&terminal, &before).with_context(|| format!("after {signal}"))?;
    }
    println!("all of it took {:.1} s", began.elapsed().as_secs_f64());
    drop(terminal);
    ensure!(daemon.stop()?.success());
    lab.stop()
}

/// One frame without a terminal.
fn once_is_plain(daemon: &Daemon<'_>) -> Result<()> {
    let text = daemon.text(&["top", "--once", "--sort", "name"])?;
    ensure!(!text.contains('\u{1b}') && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let (_, rows) = rows(&text.lines().map(str::to_owned).collect::<Vec<_>>())
        .map(|(titles, rows)| (titles.to_owned(), rows.into_iter().map(str::to_owned).collect::<Vec<_>>()))?;
    ensure!(rows.len() == 2 && rows[0].starts_with("burner ") && rows[1].starts_with("web "), "{text}");
    let text =
        output_of(daemon.command(&["top", "--once", "--columns", "200", "web"])?.env("COLUMNS", "40"))?;
    ensure!(text.contains("VCPUS") && text.contains("hog"), "{text}");
    ensure!(text.lines().any(|line| line.len() > 100), "{text}");
    let refused = daemon.command(&["top", "--once", "nobody"])?.output()?;
    ensure!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{refused:?}");
    Ok(())
}

fn the_list_is_live_and_sorts(terminal: &Terminal<'_>) -> Result<()> {
    let screen = terminal.shows("a figure", |screen| has(screen, "by need, largest first"))?;
    fits(&screen, 80, 24)?;
    let (titles, _) = rows(&screen)?;
    ensure!(titles.trim_end().ends_with("CHG") && titles.len() <= 80, "{titles}");
    // DOMAIN CLASS NEED RUN % WAIT % ...
    let (web, burner) = (row(&screen, "web")?, row(&screen, "burner")?);
    ensure!(web[1] == "latency" && web[3].parse::<f64>()? > 1.0 && web[4] == "%", "{web:?}");
    ensure!(burner[1] == "batch" && burner[3].parse::<f64>()? > 0.0, "{burner:?}");
    // A figure of a machine under load is not the same for long.
    terminal.shows("other figures", |now| row(now, "burner").is_ok_and(|now| now != burner))?;

    terminal.types("a")?;
    let screen = terminal.shows("names", |screen| has(screen, "by name, from a to z"))?;
    let (_, by_name) = rows(&screen)?;
    ensure!(by_name[0].starts_with("burner ") && by_name[1].starts_with("web "), "{by_name:?}");
    terminal.types("r")?;
    let screen = terminal.shows("names backwards", |screen| has(screen, "by name, from z to a"))?;
    ensure!(rows(&screen)?.1[0].starts_with("web "), "{screen:?}");
    terminal.types("l")?;
    terminal.shows("changes", |screen| has(screen, "by last change, newest first"))?;
    terminal.types("?")?;
    terminal.shows("help", |screen| has(screen, "KEYS") && has(screen, "STEAL"))?;
    terminal.press("Escape")?;
    terminal.shows("the list again", |screen| has(screen, "DOMAINS 2 of 2")).map(drop)
}

fn it_filters(terminal: &Terminal<'_>) -> Result<()> {
    terminal.types("/BURN")?;
    terminal.shows("what is typed", |screen| has(screen, "filter: BURN"))?;
    terminal.press("Enter")?;
    let screen = terminal.shows("one domain", |screen| has(screen, "1 of 2") && has(screen, "q quit"))?;
    ensure!(rows(&screen)?.1.len() == 1, "{screen:?}");
    terminal.press("Escape")?;
    terminal.shows("both domains", |screen| has(screen, "DOMAINS 2 of 2")).map(drop)
}

fn it_looks_into_a_domain(terminal: &Terminal<'_>) -> Result<()> {
    terminal.types("a")?;
    terminal.shows("names", |screen| has(screen, "by name, from a to z"))?;
    terminal.press("Down")?;
    terminal.press("Enter")?;
    let screen =
        terminal.shows("the page of web", |screen| has(screen, "VCPUS") && has(screen, "class latency"))?;
    fits(&screen, 80, 24)?;
    let vcpus = screen.iter().position(|line| line.starts_with("VCPU PCPU")).context("no vcpus")?;
    for (number, line) in screen[vcpus + 1..].iter().take(2).enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words[0] == number.to_string(), "{line}");
        words[1].parse::<u32>().with_context(|| format!("no pcpu in {line}"))?;
    }
    ensure!(has(&screen, "PROCESSES, "), "{screen:?}");
    ensure!(screen.iter().any(|line| line.starts_with("normal") && line.contains("hog")), "{screen:?}");
    // Further down are the orders.
    terminal.press("End")?;
    terminal.shows("its orders", |screen| has(screen, "ORDERS, the newest") && has(screen, "cpu_shares:"))?;
    terminal.press("Escape")?;
    terminal.shows("the list", |screen| has(screen, "DOMAINS 2 of 2")).map(drop)
}

fn another_size(terminal: &Terminal<'_>) -> Result<()> {
    terminal.resize(200, 50)?;
    let screen = terminal.shows("a wide list and the selected domain", |screen| {
        has(screen, "LAST CHANGE") && has(screen, "VCPUS") && has(screen, "class latency")
    })?;
    fits(&screen, 200, 50)?;
    // DOMAIN STATE CLASS VCPUS, like "2 on 0,1"
    let web = row(&screen, "web")?;
    ensure!(web[1] == "running" && web[3..5] == ["2", "on"] && has(&screen, "cpu_shares "), "{screen:?}");
    ensure!(web[5].split(',').filter(|pcpu| pcpu.parse::<u32>().is_ok()).count() == 2, "{web:?}");
    terminal.press("Enter")?;
    let screen = terminal.shows("a wide page", |screen| has(screen, "Esc back") && has(screen, "MEMORY"))?;
    fits(&screen, 200, 50)?;
    terminal.press("Escape")?;
    terminal.resize(80, 24)?;
    let screen = terminal.shows("a narrow list", |screen| has(screen, "CHG") && !has(screen, "VCPUS"))?;
    fits(&screen, 80, 24)
}

/// It says that the daemon is gone, keeps what it knew, and goes on with another one.
fn it_survives_the_daemon<'a>(
    lab: &'a Lab,
    terminal: &Terminal<'_>,
    daemon: Daemon<'_>,
) -> Result<Daemon<'a>> {
    ensure!(daemon.stop()?.success());
    let screen = terminal.shows("that the daemon is gone", |screen| {
        has(screen, "no answer, trying again") && has(screen, "kvmpilotd does not run")
    })?;
    ensure!(row(&screen, "burner").is_ok(), "{screen:?}");
    let daemon = lab.start_daemon("d", CONFIG)?;
    terminal.shows("the daemon again", |screen| {
        !has(screen, "no answer") && row(screen, "burner").is_ok_and(|row| row[3] != "-")
    })?;
    Ok(daemon)
}

/// How the shell's terminal is set.
fn tty(terminal: &Terminal<'_>) -> Result<String> {
    let modes =
        output_of(std::process::Command::new("stty").args(["-a", "-F", &terminal.says("#{pane_tty}")?]))?;
    // tmux itself puts this one on, some time after its start.
    Ok(modes.replace("-iutf8", "iutf8"))
}

/// The shell has its screen, its cursor and its modes back, and does what is typed.
fn is_restored(terminal: &Terminal<'_>, before: &str) -> Result<()> {
    wait_for("the terminal to be as before", PATIENCE, || {
        let screen = terminal.says("alternate #{alternate_on} cursor #{cursor_flag}")?;
        ensure!(screen == "alternate 0 cursor 1", "{screen}");
        let now = tty(terminal)?;
        ensure!(now == before, "{now}\nbefore {before}");
        Ok(())
    })?;
    terminal.types("echo code $? sum $((1 + 1))")?;
    terminal.press("Enter")?;
    // What is typed before the shell has written its prompt is echoed above it: then the answer stands behind the prompt.
    let answer = |line: &String| line.ends_with("code 0 sum 2");
    terminal.shows("what the shell says", |screen| screen.iter().any(answer)).map(drop)
}

//! The terminal, the keys, the signals and the daemon, around [`State`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::super::client::{Client, ClientError};
use super::draw;
use super::moment::Moment;
use super::state::{Effect, Key, State};
use super::theme::Theme;
use crate::clock::unix_ms;

/// How often the thread that waits for keys looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(200);

/// What comes from the terminal.
enum Input {
    Key(Key),
    /// Ctrl-C.
    Interrupt,
    Resize,
    Closed(io::Error),
}

/// Shows frames until a key or a signal ends it. The terminal is as before then, also after a panic.
pub(super) async fn live(client: Client, state: State, every: Duration, theme: Theme) -> io::Result<()> {
    let mut ends =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    // Raw mode, the other screen, and a panic hook that undoes both.
    let terminal = ratatui::try_init()?;
    let wanted = Arc::new(AtomicBool::new(true));
    let inputs = read_inputs(Arc::clone(&wanted));
    let outcome = Live { client, state, every, theme, terminal, question: None, asked: String::new() }
        .run(inputs, &mut ends)
        .await;
    wanted.store(false, Ordering::Relaxed);
    let restored = ratatui::try_restore();
    outcome.and(restored)
}

struct Live {
    client: Client,
    state: State,
    every: Duration,
    theme: Theme,
    terminal: DefaultTerminal,
    /// The question that is under way.
    question: Option<JoinHandle<Result<Moment, ClientError>>>,
    /// Which domain it is about.
    asked: String,
}

impl Live {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>, ends: &mut [Signal; 3]) -> io::Result<()> {
        let mut next = Instant::now();
        // Ages grow while nothing else happens.
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let [interrupted, terminated, hung_up] = ends;
        loop {
            self.draw()?;
            let idle = self.question.is_none();
            tokio::select! {
                answer = answer(&mut self.question), if !idle => {
                    self.question = None;
                    self.state.take(answer?.map_err(|error| error.to_string()));
                    // Something else was looked at meanwhile.
                    let other = self.state.wants().unwrap_or_default() != self.asked;
                    next = if other && self.state.trouble.is_none() { Instant::now() } else { Instant::now() + self.every };
                }
                () = sleep_until(next), if idle => self.ask(),
                input = inputs.recv() => match input {
                    Some(Input::Key(key)) => match self.state.press(key) {
                        Effect::Draw => {}
                        Effect::Ask => next = Instant::now(),
                        Effect::Quit => return Ok(()),
                    },
                    Some(Input::Resize) => {}
                    Some(Input::Interrupt) | None => return Ok(()),
                    Some(Input::Closed(error)) => return Err(error),
                },
                _ = seconds.tick() => {}
                _ = interrupted.recv() => return Ok(()),
                _ = terminated.recv() => return Ok(()),
                _ = hung_up.recv() => return Ok(()),
            }
        }
    }

    fn ask(&mut self) {
        let focus = self.state.wants();
        self.asked = focus.clone().unwrap_or_default();
        let client = self.client.clone();
        self.question = Some(tokio::spawn(async move { Moment::ask(&client, focus.as_deref()).await }));
    }

    fn draw(&mut self) -> io::Result<()> {
        self.state.now_unix_ms = unix_ms();
        let (state, theme) = (&mut self.state, self.theme);
        self.terminal.draw(|frame| draw::screen(state, theme, frame.buffer_mut()))?;
        Ok(())
    }
}

/// The end of the question that is under way.
async fn answer(
    question: &mut Option<JoinHandle<Result<Moment, ClientError>>>,
) -> io::Result<Result<Moment, ClientError>> {
    match question {
        Some(question) => question.await.map_err(io::Error::other),
        None => std::future::pending().await,
    }
}

/// Reads the terminal in a thread of its own until it is not wanted any more.
fn read_inputs(wanted: Arc<AtomicBool>) -> mpsc::Receiver<Input> {
    let (sender, inputs) = mpsc::channel(64);
    std::thread::spawn(move || {
        while wanted.load(Ordering::Relaxed) {
            let input = match event::poll(GLANCE) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let input = match input {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => match input_of(key) {
                    Some(input) => input,
                    None => continue,
                },
                Ok(Event::Resize(..)) => Input::Resize,
                Ok(_) => continue,
                Err(error) => Input::Closed(error),
            };
            let closed = matches!(input, Input::Closed(_));
            if sender.blocking_send(input).is_err() || closed {
                return;
            }
        }
    });
    inputs
}

fn input_of(key: KeyEvent) -> Option<Input> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Input::Interrupt);
    }
    Some(Input::Key(match key.code {
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    }))
}

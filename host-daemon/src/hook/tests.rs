//! Messages there and back and hostile ones, the socket, and the program itself.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use proptest::prelude::*;

use super::message::{MAX_BYTES, read as read_message, write};
use super::*;

fn sent(name: &str) -> Option<Vec<u8>> {
    write(OsStr::new(name), OsStr::new("started"), OsStr::new("begin"))
}

#[test]
fn what_is_written_is_read() {
    for name in ["web", "two words", "1 started begin x", "\u{fc}mlaut", &"x".repeat(255)] {
        let message = sent(name).unwrap();
        assert_eq!(read_message(&message), Ok(("started", "begin", name)));
    }
    assert_eq!(sent("web").unwrap(), b"1 started begin web");
    assert_eq!(sent(""), None);
    assert_eq!(sent(&"x".repeat(MAX_BYTES)), None);
    assert_eq!(write(OsStr::new("web"), OsStr::new("a b"), OsStr::new("-")), None);
    assert_eq!(write(OsStr::new("web"), OsStr::new(&"x".repeat(17)), OsStr::new("-")), None);
}

#[test]
fn what_is_not_a_message_is_refused_with_the_reason() {
    for (message, why) in [
        (&b""[..], "does not begin with a version"),
        (b"2 started begin web", "another version"),
        (b"1", "no operation"),
        (b"1 started", "no sub-operation"),
        (b"1  begin web", "no operation"),
        (b"1 started begin", "no domain"),
        (b"1 started begin ", "no domain"),
        (b"1 started begin we\nb", "control characters"),
        (b"1 started begin \xff", "not UTF-8"),
        (b"1 st\0rted begin web", "no operation"),
        (&[b'1'; MAX_BYTES + 1], "too long"),
    ] {
        let found = read_message(message).unwrap_err();
        assert!(found.contains(why), "{message:?}: {found}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(message in prop::collection::vec(any::<u8>(), 0..MAX_BYTES + 8)) {
        if let Ok((operation, sub_operation, name)) = read_message(&message) {
            prop_assert!(!name.is_empty() && !name.chars().any(char::is_control));
            prop_assert_eq!(write(name.as_ref(), operation.as_ref(), sub_operation.as_ref()), Some(message));
        }
    }

    #[test]
    fn any_arguments_make_a_message_that_is_read_or_none(
        name in prop::collection::vec(any::<u8>(), 0..MAX_BYTES),
        operation in "[ -~]{0,20}",
    ) {
        let is_plain = std::str::from_utf8(&name).is_ok_and(|name| !name.chars().any(char::is_control));
        let name = OsString::from_vec(name);
        if let Some(message) = write(&name, operation.as_ref(), OsStr::new("-")) {
            prop_assert!(message.len() <= MAX_BYTES);
            let expected = name.to_str().filter(|_| is_plain).map(|name| (operation.as_str(), "-", name));
            prop_assert_eq!(read_message(&message).ok(), expected);
        }
    }
}

#[tokio::test]
async fn the_socket_is_root_s_alone_and_goes_with_its_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/hook.sock");
    let (hook, mut calls) = Hook::start(Some(&path));
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let sender = Plain::unbound().unwrap();
    for message in [&b"1 prepare begin web"[..], b"rubbish", &[b'x'; 4096], b"1 started begin web"] {
        sender.send_to(message, &path).unwrap();
    }
    let turn = async |calls: &mut mpsc::Receiver<HookCall>| {
        let call = tokio::time::timeout(Duration::from_secs(10), calls.recv()).await.unwrap().unwrap();
        (call.name, call.turn)
    };
    assert_eq!(turn(&mut calls).await, ("web".to_owned(), Turn::Coming));
    assert_eq!(turn(&mut calls).await, ("web".to_owned(), Turn::Here));
    let HookReport::Listens(heard) = hook.report() else { panic!("{:?}", hook.report()) };
    assert_eq!((heard.calls, heard.refused, heard.dropped), (2, 2, 0));
    assert_eq!(heard.last.unwrap().0, "web started begin");

    let (second, _calls) = Hook::start(Some(&path));
    let HookReport::Deaf(why) = second.report() else { panic!("two daemons at one socket") };
    assert!(why.contains("another kvmpilotd listens there") && why.contains("daemon.hook_socket"), "{why}");
    drop(second);
    assert!(path.exists(), "it was not its own");
    drop(hook);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_replaced_and_a_file_of_others_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hook.sock");
    drop(Plain::bind(&path).unwrap());
    let (hook, _calls) = Hook::start(Some(&path));
    assert_eq!(hook.report(), HookReport::Listens(Heard::default()));
    drop(hook);
    fs::write(&path, "precious").unwrap();
    let (hook, _calls) = Hook::start(Some(&path));
    let HookReport::Deaf(why) = hook.report() else { panic!("it took a file") };
    assert!(why.contains("is no socket"), "{why}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let (hook, mut calls) = Hook::start(None);
    assert!(matches!(hook.report(), HookReport::Deaf(why) if why.contains("switched off")));
    assert_eq!(calls.recv().await, None, "nobody ever sends");
}

#[tokio::test]
async fn more_calls_than_there_is_room_for_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hook.sock");
    let (hook, calls) = Hook::start(Some(&path));
    let (sender, many) = (UnixDatagram::unbound().unwrap(), WAITING as u64 + 7);
    for _ in 0..many {
        sender.send_to(&sent("web").unwrap(), &path).await.unwrap();
    }
    let end = Instant::now() + Duration::from_secs(10);
    while !matches!(hook.report(), HookReport::Listens(heard) if heard.calls == many && heard.dropped == 7) {
        assert!(Instant::now() < end, "{:?}", hook.report());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(calls);
}

//! Lists in an agent's replies: a guest may make them as long as a reply may be, and each element is larger here than there.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

/// The first `MOST` elements of a list.
#[derive(Debug)]
pub(super) struct Few<T, const MOST: usize> {
    pub(super) items: Vec<T>,
    /// There were more.
    pub(super) more: bool,
}

impl<T, const MOST: usize> Default for Few<T, MOST> {
    fn default() -> Self {
        Self { items: Vec::new(), more: false }
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for First<T, MOST> {
            type Value = Few<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut few = Few::default();
                while few.items.len() < MOST {
                    let Some(item) = seq.next_element()? else { return Ok(few) };
                    few.items.push(item);
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    few.more = true;
                }
                Ok(few)
            }
        }
        deserializer.deserialize_seq(First(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_are_kept() {
        let few: Few<u8, 2> = serde_json::from_str("[1,2]").unwrap();
        assert_eq!((few.items, few.more), (vec![1, 2], false));
        let few: Few<u8, 2> = serde_json::from_str("[1,2,{\"x\":[]}]").unwrap();
        assert_eq!((few.items, few.more), (vec![1, 2], true));
        assert!(serde_json::from_str::<Few<u8, 2>>("[1,2,").is_err());
    }
}

//! The steal matrix, in memory shared with the probes: a row for each slot, a column for each group. Mapped piece by
//! piece, as rows are needed: all of it would count as memory of ours from the start.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aya::maps::MapData;

use super::shared::Shared;

#[derive(Debug)]
pub(super) struct Rows {
    array: MapData,
    /// Length of a row.
    groups: usize,
    rows: usize,
    /// Rows in a piece: whatever the length of a row, so many fill pages.
    step: usize,
    pieces: Vec<Option<Shared>>,
    /// By row, what stood in columns that went to other domains.
    retired_ns: HashMap<u32, u64>,
}

impl Rows {
    /// The `BPF_F_MMAPABLE` array of `rows` rows of `groups` words.
    pub(super) fn new(array: MapData, rows: u32, groups: u32) -> nix::Result<Self> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
        let step = page.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(4096) / size_of::<u64>();
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let (rows, groups) = (size(rows), size(groups));
        let pieces = (0..rows.div_ceil(step)).map(|_| None).collect();
        Ok(Self { array, groups, rows, step, pieces, retired_ns: HashMap::new() })
    }

    /// First entry of a row.
    pub(super) fn begin(&self, row: u32) -> u32 {
        row.saturating_mul(u32::try_from(self.groups).unwrap_or(u32::MAX))
    }

    fn row(&self, row: u32) -> Option<&[AtomicU64]> {
        let row = usize::try_from(row).ok()?;
        let piece = self.pieces.get(row / self.step)?.as_ref()?;
        piece.words().get(row % self.step * self.groups..)?.get(..self.groups)
    }

    /// Maps a row and sets it to zero. Nobody may be charging to it.
    pub(super) fn clear(&mut self, row: u32) -> nix::Result<()> {
        let number = usize::try_from(row).unwrap_or(usize::MAX) / self.step;
        let first = number.saturating_mul(self.step);
        if let Some(piece @ None) = self.pieces.get_mut(number) {
            let rows = self.step.min(self.rows - first);
            *piece = Some(Shared::map(self.array.fd().as_fd(), first * self.groups, rows * self.groups)?);
        }
        self.row(row).into_iter().flatten().for_each(|cell| cell.store(0, Relaxed));
        self.retired_ns.remove(&row);
        Ok(())
    }

    /// The columns below `used` that are not zero.
    pub(super) fn read(&self, row: u32, used: usize) -> impl Iterator<Item = (u32, u64)> + Clone {
        let cells = self.row(row).unwrap_or_default().iter().take(used);
        (0..).zip(cells.map(|cell| cell.load(Relaxed))).filter(|&(_, ns)| ns > 0)
    }

    /// What went with columns that are no more.
    pub(super) fn retired_ns(&self, row: u32) -> u64 {
        self.retired_ns.get(&row).copied().unwrap_or(0)
    }

    /// Empties the column of a group that nobody is charged for any more, so that it can go to another domain.
    pub(super) fn retire(&mut self, group: u32, rows: impl Iterator<Item = u32>) {
        let column = usize::try_from(group).unwrap_or(usize::MAX);
        for row in rows {
            let ns =
                self.row(row).and_then(|cells| cells.get(column)).map_or(0, |cell| cell.swap(0, Relaxed));
            if ns > 0 {
                *self.retired_ns.entry(row).or_default() += ns;
            }
        }
    }
}

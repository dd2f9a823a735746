//! What is unread can be counted and looked at.
//!
//! Input: a [`Pair`], enrolled here while bytes are unread. Output: nothing, or a count by FIONREAD or bytes that are not those that were sent.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use rustix::io::ioctl_fionread;

use super::{Failure, PATIENCE, Pair, When as _, pattern, receive, same, uninterrupted};
use crate::probe::inject::Bench;

impl Pair {
    pub(super) fn unread_at_enrolment(
        &mut self,
        bench: &mut Bench,
        number: u64,
    ) -> Result<(), Failure> {
        self.server.write_all(&pattern(100)).when("send")?;
        self.expect_unread(100, "outside of the sockhash")?;
        bench.enrol(number, &self.client).when("enrolment")?;
        self.expect_unread(100, "unread since before the enrolment")?;
        receive(
            &mut self.client,
            &pattern(100),
            "unread since before the enrolment",
        )
    }

    pub(super) fn fionread(&mut self) -> Result<(), Failure> {
        self.expect_unread(0, "after everything was read")?;
        self.server.write_all(&pattern(1000)).when("send")?;
        self.expect_unread(1000, "after one send")?;
        receive(&mut self.client, &pattern(1000)[..300], "the first part")?;
        self.expect_unread(700, "after a part was read")?;
        receive(&mut self.client, &pattern(1000)[300..], "the rest")?;
        self.expect_unread(0, "after the rest was read")
    }

    pub(super) fn peek(&mut self) -> Result<(), Failure> {
        self.server.write_all(&pattern(50)).when("send")?;
        self.expect_unread(50, "before a look")?;
        let mut looked = [0; 50];
        let count = uninterrupted(|| self.client.peek(&mut looked)).when("MSG_PEEK")?;
        same(&looked[..count], &pattern(50), "a look at unread bytes")?;
        receive(&mut self.client, &pattern(50), "a read after a look")
    }

    pub(super) fn expect_unread(&self, there: u64, when: &'static str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = ioctl_fionread(&self.client).when("FIONREAD")?;
            if said == there {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::Fionread { said, there, when });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

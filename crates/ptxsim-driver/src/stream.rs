//! Streams, events and capture. Work is done when it is submitted, so waiting never waits.

use std::ffi::{c_int, c_uint};
use std::time::Instant;

use crate::abi::{Out, R, api};
use crate::codes::*;
use crate::state::{Node, State, Work};

fn create(s: &mut State, o: Out<u64>) -> R {
    s.ready()?;
    let h = s.handle();
    s.streams.get_or_insert_default().insert(h, None);
    o.set(h)
}

fn known(s: &mut State, stream: u64) -> R {
    s.ready()?;
    if stream <= 2 || s.streams.get_or_insert_default().contains_key(&stream) { Ok(()) } else { Err(INVALID_HANDLE) }
}

/// Waiting for a stream that is captured ends the capture in error, as on a real driver.
fn wait(s: &mut State, stream: u64) -> R {
    known(s, stream)?;
    match s.streams.get_or_insert_default().get(&stream) {
        Some(Some(_)) => Err(CAPTURE_INVALIDATED),
        _ => Ok(()),
    }
}

api! {
    healthy;
    fn cuStreamCreate(o: Out<u64>, _flags: c_uint) |s| { create(s, o) }
    fn cuStreamCreateWithPriority(o: Out<u64>, _flags: c_uint, _priority: c_int) |s| { create(s, o) }
    fn cuStreamSynchronize(stream: u64) |s| { wait(s, stream) }
    fn cuStreamQuery(stream: u64) |s| { wait(s, stream) }
    fn cuStreamWaitEvent(stream: u64, e: u64, _flags: c_uint) |s| {
        known(s, stream)?;
        if s.events.get_or_insert_default().contains_key(&e) { Ok(()) } else { Err(INVALID_HANDLE) }
    }
    fn cuStreamBeginCapture_v2(stream: u64, _mode: c_int) |s| {
        s.ready()?;
        match s.streams.get_or_insert_default().get_mut(&stream) {
            Some(c @ None) => {
                *c = Some(vec![]);
                Ok(())
            }
            Some(_) => Err(CAPTURE_INVALIDATED),
            None => Err(NOT_SUPPORTED),
        }
    }
    fn cuStreamEndCapture(stream: u64, o: Out<u64>) |s| {
        let captured = s.streams.get_or_insert_default().get_mut(&stream).ok_or(INVALID_HANDLE)?.take();
        let work = captured.ok_or(INVALID_VALUE)?;
        let h = s.handle();
        let chain = |(i, work): (usize, Work)| Node { work, after: i.checked_sub(1).into_iter().collect() };
        s.graphs.get_or_insert_default().insert(h, work.into_iter().enumerate().map(chain).collect());
        o.set(h)
    }
    fn cuStreamIsCapturing(stream: u64, o: Out<c_int>) |s| {
        known(s, stream)?;
        o.set(matches!(s.streams.get_or_insert_default().get(&stream), Some(Some(_))) as c_int)
    }
    fn cuEventCreate(o: Out<u64>, _flags: c_uint) |s| {
        s.ready()?;
        let h = s.handle();
        s.events.get_or_insert_default().insert(h, None);
        o.set(h)
    }
    fn cuEventRecord(e: u64, stream: u64) |s| {
        known(s, stream)?;
        *s.events.get_or_insert_default().get_mut(&e).ok_or(INVALID_HANDLE)? = Some(Instant::now());
        Ok(())
    }
    fn cuEventSynchronize(e: u64) |s| {
        s.events.get_or_insert_default().get(&e).map(|_| ()).ok_or(INVALID_HANDLE)
    }
    fn cuEventQuery(e: u64) |s| {
        s.events.get_or_insert_default().get(&e).map(|_| ()).ok_or(INVALID_HANDLE)
    }
    fn cuEventElapsedTime(o: Out<f32>, a: u64, b: u64) |s| { elapsed(s, o, a, b) }
    fn cuEventElapsedTime_v2(o: Out<f32>, a: u64, b: u64) |s| { elapsed(s, o, a, b) }
}

/// Milliseconds of the machine that simulates: they say nothing about a GPU.
fn elapsed(s: &mut State, o: Out<f32>, a: u64, b: u64) -> R {
    let events = s.events.get_or_insert_default();
    let at = |e: u64| events.get(&e).copied().flatten().ok_or(INVALID_HANDLE);
    let (a, b) = (at(a)?, at(b)?);
    o.set(b.saturating_duration_since(a).as_secs_f32() * 1e3)
}

api! {
    always;
    fn cuStreamDestroy_v2(stream: u64) |s| {
        s.streams.get_or_insert_default().remove(&stream).map(|_| ()).ok_or(INVALID_HANDLE)
    }
    fn cuEventDestroy_v2(e: u64) |s| {
        s.events.get_or_insert_default().remove(&e).map(|_| ()).ok_or(INVALID_HANDLE)
    }
}

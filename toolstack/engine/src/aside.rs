//! What goes on beside a monitor's work for its domain, and ends by itself.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use kxl_store::StoreError;

use crate::live::LiveDomain;

/// Something that has ended.
#[derive(Debug)]
pub enum Aside {
    /// The check of the image that the guest came from ([`LiveDomain::image_checked`]).
    Checked(Result<(), StoreError>),
    /// The stop script ([`LiveDomain::stop_script_is_over`]); an error is why it did not shut the
    /// guest down.
    StopScript(Result<(), String>),
}

impl LiveDomain {
    /// Waits until one of them has ended; for ever where there is none. Cancel-safe.
    pub async fn aside(&mut self) -> Aside {
        poll_fn(|cx| {
            if let Some(shutting) = &mut self.shutting
                && let Poll::Ready(ended) = Pin::new(&mut shutting.done).poll(cx)
            {
                let lost = |_| Err("the stop script was lost".to_owned());
                return Poll::Ready(Aside::StopScript(ended.unwrap_or_else(lost)));
            }
            // One that could not be started never ends.
            if let Some(verifier) = &mut self.verifier
                && let Poll::Ready(Ok(outcome)) = Pin::new(&mut verifier.done).poll(cx)
            {
                return Poll::Ready(Aside::Checked(outcome));
            }
            Poll::Pending
        })
        .await
    }
}

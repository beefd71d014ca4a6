//! Where a recording's observations come from.

use std::future::Future;

use anyhow::Result;

use crate::{
    model::Observation,
    sensor::{Description, Last, Sensor, scope::Scope},
};

/// What observes: the sensors, or a script in tests.
pub trait Feed {
    /// What it can do here.
    fn describe(&self) -> Description;
    /// The next observations. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Vec<Observation>>>;
    /// Stops it.
    fn finish(self) -> Result<Last>;
}

impl Feed for Sensor {
    fn describe(&self) -> Description {
        Self::describe(self)
    }

    async fn next(&mut self) -> Result<Vec<Observation>> {
        Self::next(self).await
    }

    fn finish(self) -> Result<Last> {
        Self::finish(self)
    }
}

/// Of a feed what is about processes of one command.
#[derive(Debug)]
pub struct Scoped<F> {
    feed: F,
    scope: Scope,
}

impl<F: Feed> Scoped<F> {
    /// Keeps back what is about others.
    pub fn new(feed: F, scope: Scope) -> Self {
        Self { feed, scope }
    }
}

impl<F: Feed> Feed for Scoped<F> {
    fn describe(&self) -> Description {
        self.feed.describe()
    }

    async fn next(&mut self) -> Result<Vec<Observation>> {
        let mut batch = self.feed.next().await?;
        batch.retain(|observation| self.scope.admits(observation));
        Ok(batch)
    }

    fn finish(self) -> Result<Last> {
        let Self { feed, mut scope } = self;
        let mut last = feed.finish()?;
        last.observations.retain(|observation| scope.admits(observation));
        Ok(last)
    }
}

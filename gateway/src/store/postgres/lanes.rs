//! Several lanes write, each with a connection of its own: while one commits, another one gathers what has come in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::keeper::{CHANNEL, Keeper};
use super::lease::Lease;
use super::tallies::{self, Tally};
use super::{ANSWER_WITHIN, CONNECT_WITHIN, batches, code, files, jobs, objects};
use crate::store::write::Write;
use crate::store::{Bounds, Signs, StoreError};

/// Connections that write.
const LANES: i32 = 4;
/// Writes of one commit at most.
const GROUP: usize = 512;
/// Groups that met another one's are tried as often as this.
const TRIES: u32 = 4;
/// A server that could not be reached is left alone for so long.
const RECONNECT_AFTER: Duration = Duration::from_millis(250);
/// Tables grow faster than the server learns their sizes; each statement of a lane has its rows by an index.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// All that writes.
pub struct Writer {
    pool: PgPool,
    options: PgConnectOptions,
    writes: mpsc::Receiver<Write>,
    bounds: Bounds,
    signs: Arc<Signs>,
    lease: Arc<Lease>,
}

impl Writer {
    pub(super) async fn new(
        pool: PgPool,
        options: PgConnectOptions,
        writes: mpsc::Receiver<Write>,
        bounds: Bounds,
        signs: Arc<Signs>,
    ) -> Result<Self, StoreError> {
        let lease = Arc::new(Lease::begin(&pool).await?);
        jobs::write::reclaim(&mut *pool.acquire().await?, &lease.holder()).await?;
        signs.work.notify_one();
        Ok(Self { pool, options, writes, bounds, signs, lease })
    }

    pub(super) fn lease(&self) -> Arc<Lease> {
        self.lease.clone()
    }

    /// Writes until told to stop, and then what is still waiting to be written.
    pub async fn run(self, stop: CancellationToken) {
        let writes = Arc::new(Mutex::new(self.writes));
        let announce = Arc::new(Notify::new());
        // What is left of them ends when this does.
        let mut keeping = JoinSet::new();
        let keeper = Keeper {
            pool: self.pool.clone(),
            lease: self.lease.clone(),
            signs: self.signs.clone(),
            announce: announce.clone(),
            bounds: self.bounds,
        };
        keeper.begin(&mut keeping);
        let mut lanes = JoinSet::new();
        for number in 1..=LANES {
            let lane = Lane {
                number,
                writes: writes.clone(),
                options: self.options.clone(),
                connection: None,
                failed: None,
                signs: self.signs.clone(),
                lease: self.lease.clone(),
                announce: announce.clone(),
                bounds: self.bounds,
            };
            lanes.spawn(lane.run(stop.clone()));
        }
        while lanes.join_next().await.is_some() {}
        keeping.shutdown().await;
        let ended = tokio::time::timeout(CONNECT_WITHIN, give_back(&self.pool, &self.lease)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "running jobs were not given back; they will be when the lease is over");
            }
            Err(_) => {
                tracing::warn!("the database does not answer; running jobs go back when the lease is over");
            }
        }
    }
}

/// Nobody died: what still runs is given back without being held against it.
async fn give_back(pool: &PgPool, lease: &Lease) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    jobs::write::release_all(&mut transaction, &lease.holder()).await?;
    batches::release_all(&mut transaction, &lease.holder()).await?;
    lease.end(&mut *transaction).await?;
    tallies::join(&mut transaction).await?;
    transaction.commit().await?;
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(pool).await?;
    pool.close().await;
    Ok(())
}

struct Lane {
    number: i32,
    writes: Arc<Mutex<mpsc::Receiver<Write>>>,
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    /// When the server was last found to be out of reach.
    failed: Option<Instant>,
    signs: Arc<Signs>,
    lease: Arc<Lease>,
    announce: Arc<Notify>,
    bounds: Bounds,
}

impl Lane {
    async fn run(mut self, stop: CancellationToken) {
        let mut group = Vec::new();
        while self.gather(&mut group, &stop).await > 0 {
            self.commit(&mut group).await;
        }
        if let Some(connection) = self.connection {
            let _ = connection.close().await;
        }
    }

    async fn gather(&self, group: &mut Vec<Write>, stop: &CancellationToken) -> usize {
        let mut writes = self.writes.lock().await;
        loop {
            tokio::select! {
                biased;
                count = writes.recv_many(group, GROUP) => return count,
                () = stop.cancelled(), if !writes.is_closed() => writes.close(),
            }
        }
    }

    async fn commit(&mut self, group: &mut Vec<Write>) {
        let committed = self.try_apply(group).await;
        if group.len() > 1 && committed.as_ref().is_err_and(StoreError::is_of_one_write) {
            // One of them is at fault, and the others are not.
            for write in group.drain(..) {
                let mut alone = [write];
                let committed = self.try_apply(&mut alone).await;
                let [write] = alone;
                write.tell(&committed);
            }
        } else {
            for write in group.drain(..) {
                write.tell(&committed);
            }
        }
    }

    /// Applies a group, again where it met another one, or where the connection was an old one that is gone.
    async fn try_apply(&mut self, group: &mut [Write]) -> Result<(), StoreError> {
        let mut tries = 1;
        loop {
            let is_fresh = self.connection.is_none();
            let outcome = self.apply(group).await;
            let is_again = match &outcome {
                Err(StoreError::Unavailable(_)) => !is_fresh,
                Err(error) => error.is_passing(),
                Ok(()) => false,
            };
            if !is_again || tries == TRIES {
                return outcome;
            }
            tries += 1;
        }
    }

    /// All writes or none.
    async fn apply(&mut self, group: &mut [Write]) -> Result<(), StoreError> {
        let mut connection = self.connect().await?;
        let holder = self.lease.holder();
        let within = ANSWER_WITHIN + group.iter().map(Write::takes).sum::<Duration>();
        let mut is_committing = false;
        let applying =
            transact(&mut connection, self.number, &self.bounds, &holder, group, &mut is_committing);
        let outcome = match tokio::time::timeout(within, applying).await {
            Ok(outcome) => outcome.map_err(StoreError::from),
            Err(_) => Err(StoreError::Unavailable("it does not answer".to_owned())),
        };
        match outcome {
            // The connection is gone, and what it was about to do is not known to have happened.
            Err(StoreError::Unavailable(why)) if is_committing => return Err(StoreError::Unknown(why)),
            Err(StoreError::Unavailable(why)) => return Err(StoreError::Unavailable(why)),
            outcome => {
                self.connection = Some(connection);
                outcome?;
            }
        }
        if group.iter().any(Write::is_fenced) {
            self.lease.doubt.notify_one();
        }
        if group.iter().any(Write::brings_work) {
            self.signs.work.notify_one();
            self.announce.notify_one();
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        if self.failed.is_some_and(|failed| failed.elapsed() < RECONNECT_AFTER) {
            return Err(StoreError::Unavailable("it could not be reached a moment ago".to_owned()));
        }
        let connecting = async {
            let mut connection = self.options.connect().await?;
            connection.execute(BY_INDEX).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        let outcome = match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(outcome) => outcome.map_err(StoreError::from),
            Err(_) => Err(StoreError::Unavailable("it does not answer".to_owned())),
        };
        self.failed = outcome.is_err().then(Instant::now);
        outcome
    }
}

/// One transaction. `is_committing` tells, if it does not come to its end, whether it may have happened all the same.
async fn transact(
    connection: &mut PgConnection,
    lane: i32,
    bounds: &Bounds,
    holder: &str,
    group: &mut [Write],
    is_committing: &mut bool,
) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    let change = match apply(&mut transaction, bounds, holder, group).await {
        Ok(change) => change,
        Err(error) => {
            if code(&error).is_some() {
                transaction.rollback().await?;
            }
            return Err(error);
        }
    };
    tallies::add(&mut transaction, holder, lane, change).await?;
    *is_committing = true;
    let committed = transaction.commit().await;
    // What the server itself says is certain.
    *is_committing = committed.as_ref().is_err_and(|error| code(error).is_none());
    committed
}

/// Those that wait together have no order among them, so what can be one statement is one, and claims come last, when there
/// is most to claim.
async fn apply(
    connection: &mut PgConnection,
    bounds: &Bounds,
    holder: &str,
    group: &mut [Write],
) -> sqlx::Result<Tally> {
    let mut change = Tally::default();
    let (mut puts, mut enqueues, mut completes, mut claims) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for write in group {
        match write {
            Write::Put(put) => puts.push(&mut **put),
            Write::Enqueue(enqueue) => enqueues.push(enqueue),
            Write::Complete(complete) => completes.push(&mut **complete),
            Write::Claim(claim) => claims.push(claim),
            Write::SetMetadata(set) => objects::set_metadata(connection, set).await?,
            Write::Delete(delete) => objects::delete(connection, &mut change, delete).await?,
            Write::Begin(begin) => jobs::write::begin(connection, holder, begin).await?,
            Write::Release(release) => jobs::write::release(connection, holder, release).await?,
            Write::Cancel(cancel) => jobs::write::cancel(connection, &mut change, cancel).await?,
            Write::CancelGroup(cancel) => jobs::write::cancel_group(connection, &mut change, cancel).await?,
            Write::Forget(forget) => jobs::write::forget(connection, &mut change, forget).await?,
            Write::BeginFile(begin) => files::begin(connection, begin).await?,
            Write::AppendFile(append) => files::append(connection, bounds, append).await?,
            Write::FinishFile(finish) => files::finish(connection, finish).await?,
            Write::DeleteFile(delete) => files::delete(connection, delete).await?,
            Write::PutBatch(put) => batches::put(connection, holder, put).await?,
            Write::UpdateBatch(update) => batches::update(connection, holder, update).await?,
            Write::CancelBatch(cancel) => batches::cancel(connection, cancel).await?,
            Write::ClaimBatches(claim) => batches::claim(connection, holder, claim).await?,
            Write::Reclaim(reclaim) => {
                let reclaimed = jobs::write::take_back(connection, &mut change, holder).await?;
                reclaim.reply.set(reclaimed);
            }
        }
    }
    objects::put(connection, &mut change, &mut puts).await?;
    jobs::enqueue::enqueue(connection, &mut change, holder, &mut enqueues).await?;
    jobs::write::complete(connection, &mut change, holder, &mut completes).await?;
    for claim in claims {
        jobs::write::claim(connection, holder, claim).await?;
    }
    Ok(change)
}

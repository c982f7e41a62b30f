//! Ingest on more than one machine, by Apache Ballista: a scheduler and executors are processes of this program.
//!
//! The plans are those of one machine. The process that ingests makes them and hands them to the scheduler, executors run
//! their stages, and clusters, split and audit are made where the plans were. Every machine must see the data folder and the
//! folder of the output under the same paths (a file system that they share); between them go only plans and rows.
//!
//! An executor that dies is noticed after [`TIMEOUT_SECONDS`]; what it had begun, or held for others, is made again. A unit
//! of parsing that is done twice leaves the same files under the same names.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::execution_plans::execute_physical_plan;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::PhysicalPlanNode;

use crate::Error;
use crate::parse::{Job, Parse, Parser};

/// An executor of which nothing was heard for so long is dead.
pub const TIMEOUT_SECONDS: u64 = 20;
/// Executors ask for work, so that nobody needs a way to them but those that fetch what they have made.
const POLICY: TaskSchedulingPolicy = TaskSchedulingPolicy::PullStaged;
/// Partitions of a plan: stages have as many tasks at most.
const PARTITIONS: usize = 16;
/// Largest message: a plan holds the places of the records that it keeps, eight bytes each.
const MESSAGE: usize = 1 << 30;

/// Where plans are sent.
pub(crate) struct Cluster {
    /// `HOST:PORT` of the scheduler.
    address: String,
}

impl Cluster {
    /// The cluster of the scheduler at `HOST:PORT`.
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    /// What plans for a cluster are made with.
    pub(crate) fn session() -> SessionConfig {
        SessionConfig::new_with_ballista()
            .with_target_partitions(PARTITIONS)
            .with_ballista_grpc_client_max_message_size(MESSAGE)
            .with_ballista_physical_extension_codec(Arc::new(Codec::default()))
    }

    /// Runs a plan.
    pub(crate) async fn run(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        session: &SessionContext,
    ) -> Result<SendableRecordBatchStream, Error> {
        let config = session.copied_config();
        execute_physical_plan::<PhysicalPlanNode>(
            format!("http://{}", self.address),
            &config.ballista_config(),
            plan,
            config.ballista_physical_extension_codec().as_ref(),
            session.session_id(),
            config,
        )
        .await
        .map_err(|error| fault(&self.address, error))
    }
}

fn fault(address: &str, error: impl std::fmt::Display) -> Error {
    Error::Cluster { address: address.to_owned(), detail: error.to_string() }
}

/// Hands out stages of plans to executors, until the process ends.
///
/// # Errors
/// The address cannot be had.
pub fn scheduler(bind: SocketAddr) -> Result<(), Error> {
    let config = SchedulerConfig {
        bind_host: bind.ip().to_string(),
        bind_port: bind.port(),
        scheduling_policy: POLICY,
        external_host: bind.ip().to_string(),
        executor_timeout_seconds: TIMEOUT_SECONDS,
        expire_dead_executor_interval_seconds: TIMEOUT_SECONDS / 4,
        no_executors_grace_period_seconds: 3 * TIMEOUT_SECONDS,
        grpc_server_max_decoding_message_size: MESSAGE as u32,
        grpc_server_max_encoding_message_size: MESSAGE as u32,
        grpc_client_max_message_size: MESSAGE as u32,
        override_config_producer: Some(Arc::new(Cluster::session)),
        override_physical_codec: Some(Arc::new(Codec::default())),
        ..SchedulerConfig::default()
    };
    let ended: Result<(), BallistaError> = runtime()?.block_on(async move {
        let cluster = BallistaCluster::new_from_config(&config).await?;
        start_server(cluster, bind, Arc::new(config)).await
    });
    ended.map_err(|error| fault(&bind.to_string(), error))
}

/// Runs stages of plans, as many at once as rayon has threads, until the process ends.
///
/// `scheduler`: host and port of the scheduler; `host`: the name under which other machines find this one; `memory_mib`:
/// what the stages may hold together before they spill; `work`: folder for what stages leave for each other.
///
/// # Errors
/// The address cannot be had, or the scheduler is not found within half a minute.
pub fn executor(
    scheduler: (&str, u16),
    bind: SocketAddr,
    host: &str,
    memory_mib: u64,
    work: &Path,
) -> Result<(), Error> {
    fs_err::create_dir_all(work)?;
    let config = ExecutorProcessConfig {
        bind_host: bind.ip().to_string(),
        external_host: Some(host.to_owned()),
        port: bind.port(),
        task_scheduling_policy: POLICY,
        executor_heartbeat_interval_seconds: TIMEOUT_SECONDS / 4,
        scheduler_host: scheduler.0.to_owned(),
        scheduler_port: scheduler.1,
        scheduler_connect_timeout_seconds: 30,
        vcores: rayon::current_num_threads(),
        work_dir: Some(work.display().to_string()),
        memory_pool_size: Some(memory_mib << 20),
        grpc_max_decoding_message_size: MESSAGE as u32,
        grpc_max_encoding_message_size: MESSAGE as u32,
        override_config_producer: Some(Arc::new(Cluster::session)),
        override_physical_codec: Some(Arc::new(Codec::default())),
        ..ExecutorProcessConfig::default()
    };
    let ended = runtime()?.block_on(start_executor_process(Arc::new(config)));
    ended.map_err(|error| fault(&format!("{}:{}", scheduler.0, scheduler.1), error))
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// The first bytes of our plan where it is bytes.
const MAGIC: &[u8] = b"peptalk parse\n";

/// Our plan among those of Ballista.
#[derive(Default)]
struct Codec {
    ballista: BallistaPhysicalExtensionCodec,
    /// The parser of the last job: its tasks come one by one and share what is known of the sources.
    last: Mutex<Option<(Vec<u8>, Arc<Parser>)>>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Codec")
    }
}

fn in_plan(error: serde_json::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        buffer: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let Some(ours) = buffer.strip_prefix(MAGIC) else {
            return self.ballista.try_decode(buffer, inputs, context, converter);
        };
        let [units] = inputs else {
            return Err(DataFusionError::Internal(format!("Parse has {} inputs", inputs.len())));
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let parser = match &*last {
            Some((known, parser)) if known == ours => parser.clone(),
            _ => {
                let job: Job = serde_json::from_slice(ours).map_err(in_plan)?;
                let parser = Arc::new(Parser::elsewhere(job));
                *last = Some((ours.to_owned(), parser.clone()));
                parser
            }
        };
        Ok(Arc::new(Parse::new(parser, units.clone())))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buffer: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> PlanResult<()> {
        let Some(parse) = node.downcast_ref::<Parse>() else {
            return self.ballista.try_encode(node, buffer, converter);
        };
        buffer.extend_from_slice(MAGIC);
        serde_json::to_writer(buffer, parse.job()).map_err(in_plan)
    }
}

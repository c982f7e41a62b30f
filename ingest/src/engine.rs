//! Where relational plans run, and how their rows come back.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use arrow::record_batch::RecordBatch;
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::JoinType;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;

use crate::Error;
use crate::config::Config;
#[cfg(feature = "ballista")]
use crate::distributed::Cluster;

/// The relational engine.
pub(crate) struct Engine {
    /// Makes plans.
    pub(crate) session: SessionContext,
    /// Runs them, where that is not this process.
    #[cfg(feature = "ballista")]
    cluster: Option<Cluster>,
}

impl Engine {
    /// An engine on the cluster of this scheduler.
    #[cfg(feature = "ballista")]
    pub(crate) fn on_cluster(scheduler: &str) -> Self {
        let session = SessionContext::new_with_config(tuned(Cluster::session()));
        Self { session, cluster: Some(Cluster::new(scheduler)) }
    }

    /// An engine in this process with as many partitions as rayon has threads, which spills above the configured memory.
    pub(crate) fn here(config: &Config) -> Result<Self, Error> {
        // Shared fairly: a sort that came first must spill before one that came later fails.
        let pool = Arc::new(FairSpillPool::new(config.memory_mib << 20));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
        let session = SessionConfig::new().with_target_partitions(rayon::current_num_threads());
        Ok(Self {
            session: SessionContext::new_with_config_rt(tuned(session), runtime),
            #[cfg(feature = "ballista")]
            cluster: None,
        })
    }

    /// Runs a plan.
    pub(crate) async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream, Error> {
        #[cfg(feature = "ballista")]
        if let Some(cluster) = &self.cluster {
            return cluster.run(plan, &self.session).await;
        }
        Ok(execute_stream(plan, self.session.task_ctx())?)
    }

    /// The batches of a frame, as they come.
    pub(crate) async fn stream(&self, frame: DataFrame) -> Result<SendableRecordBatchStream, Error> {
        self.run(frame.create_physical_plan().await?).await
    }

    /// Hands on the rows of a frame as they come.
    pub(crate) async fn each<T: for<'de> Deserialize<'de>>(
        &self,
        frame: DataFrame,
        mut take: impl FnMut(T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut batches = self.stream(frame).await?;
        while let Some(batch) = batches.next().await {
            serde_arrow::from_record_batch::<Vec<T>>(&batch?)?.into_iter().try_for_each(&mut take)?;
        }
        Ok(())
    }

    /// The rows of a frame.
    pub(crate) async fn collect<T: for<'de> Deserialize<'de>>(
        &self,
        frame: DataFrame,
    ) -> Result<Vec<T>, Error> {
        let mut rows = Vec::new();
        self.each(frame, |row| {
            rows.push(row);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    /// The values of a frame's only column.
    pub(crate) async fn numbers(&self, frame: DataFrame) -> Result<Vec<u64>, Error> {
        let batches: Vec<RecordBatch> = self.stream(frame).await?.try_collect().await?;
        Ok(batches.iter().flat_map(|b| b.column(0).as_primitive::<UInt64Type>().values().to_vec()).collect())
    }

    /// Rows whose `column` is one of the numbers (`RightSemi`) or none of them (`RightAnti`). The left side of a join is
    /// held in memory while the right side streams past it, so the numbers stand on the left.
    pub(crate) fn by_number(
        &self,
        rows: DataFrame,
        column: &str,
        how: JoinType,
        numbers: impl IntoIterator<Item = u64>,
    ) -> Result<DataFrame, Error> {
        let schema = Arc::new(Schema::new(vec![Field::new("number", DataType::UInt64, false)]));
        let array: ArrayRef = Arc::new(UInt64Array::from_iter_values(numbers));
        let batch = RecordBatch::try_new(schema, vec![array])?;
        Ok(self.session.read_batch(batch)?.join(rows, how, &["number"], &[column], None)?)
    }
}

/// What suits our rows, wherever plans run.
fn tuned(mut session: SessionConfig) -> SessionConfig {
    // serde_arrow reads plain strings; views would only be cast back.
    session.options_mut().execution.parquet.schema_force_view_types = false;
    session.options_mut().execution.collect_statistics = false;
    // A row may hold a backbone of 12 KB: a sort must find room for a batch and a copy of it.
    session.with_batch_size(2_048)
}

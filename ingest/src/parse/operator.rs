//! Parsing as an operator of a plan.

use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::TryStreamExt;

#[cfg(feature = "ballista")]
use super::Job;
use super::{Parser, Unit};
use crate::Error;

/// The operator: parses the units that its input names, one in each partition, and hands their names on. What it is for lies
/// in the folder then. (A leaf would be shorter, but of these Ballista cuts only those that it knows into tasks.)
pub(crate) struct Parse {
    parser: Arc<Parser>,
    units: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl Parse {
    /// `units`: a column of them as JSON.
    pub(crate) fn new(parser: Arc<Parser>, units: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(units.schema()),
            Partitioning::UnknownPartitioning(units.properties().output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { parser, units, properties: Arc::new(properties) }
    }

    /// A plan of all these units.
    pub(super) fn all(parser: Arc<Parser>, units: &[Unit]) -> Result<Self, Error> {
        let schema = Arc::new(Schema::new(vec![Field::new("unit", DataType::Utf8, false)]));
        let partition = |unit: &Unit| -> Result<Vec<RecordBatch>, Error> {
            let text = StringArray::from(vec![serde_json::to_string(unit)?]);
            Ok(vec![RecordBatch::try_new(schema.clone(), vec![Arc::new(text)])?])
        };
        let partitions: Vec<_> = units.iter().map(partition).collect::<Result<_, _>>()?;
        Ok(Self::new(parser, MemorySourceConfig::try_new_exec(&partitions, schema, None)?))
    }

    /// The same over other units.
    fn over(&self, mut inputs: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let units = inputs.pop().ok_or_else(|| DataFusionError::Internal("Parse needs its units".into()))?;
        Ok(Arc::new(Self::new(self.parser.clone(), units)))
    }

    /// The job of its parser.
    #[cfg(feature = "ballista")]
    pub(crate) fn job(&self) -> &Job {
        &self.parser.job
    }
}

impl std::fmt::Debug for Parse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parse")
    }
}

impl DisplayAs for Parse {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parse")
    }
}

impl ExecutionPlan for Parse {
    fn name(&self) -> &str {
        "Parse"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.units]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> PlanResult<TreeNodeRecursion>,
    ) -> PlanResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> PlanResult<SendableRecordBatchStream> {
        let parser = self.parser.clone();
        let rows = self.units.execute(partition, context)?.and_then(move |names| {
            let parser = parser.clone();
            async move {
                let _slot = parser.slots.acquire().await.expect("nobody closes it");
                let working = parser.clone();
                let parsed = tokio::task::spawn_blocking(move || {
                    names
                        .column(0)
                        .as_string::<i32>()
                        .iter()
                        .flatten()
                        .try_for_each(|unit| working.run(unit))?;
                    Ok(names)
                });
                parsed.await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

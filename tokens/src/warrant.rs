//! What the gate allowed at most, and whether this process knows that from the gate itself.

use std::sync::Arc;

use kernel::{StepIx, StepSpec};
use schemas::{Ceiling, Class, Deed, Digest, Manifest, Statement, StepAssessment, Verified};

/// The ceilings over the steps of a plan, for the decisions that the gate is about to sign.
pub fn ceilings<'a>(steps: impl IntoIterator<Item = (&'a StepSpec, &'a StepAssessment)>) -> Vec<Ceiling> {
    let ceiling = |(step, assessed): (&StepSpec, &StepAssessment)| Ceiling {
        reach: step.reach_with(&assessed.pinned),
        irreversible: assessed.class.max(step.lowered.class) == Class::Irreversible,
    };
    steps.into_iter().map(ceiling).collect()
}

/// The ceilings of a run. Acting forward needs those of a manifest whose signature was verified; the way back needs what is on record.
#[derive(Clone, Debug)]
pub struct Warrant {
    pub(crate) plan: Digest,
    pub(crate) manifest: Digest,
    ceilings: Arc<Vec<Ceiling>>,
    is_signed: bool,
}

impl Warrant {
    /// The warrant of a manifest. `decisions` is the digest of the document that `ceilings` were read from; there is none if
    /// that is not the document which the manifest names.
    pub fn signed(
        manifest: &Verified<Statement<Manifest>>,
        decisions: Digest,
        ceilings: Arc<Vec<Ceiling>>,
    ) -> Option<Self> {
        let said = &manifest.document().predicate;
        let (plan, digest) = (said.plan, manifest.digest());
        (said.decisions == decisions).then_some(Self { plan, manifest: digest, ceilings, is_signed: true })
    }

    /// A warrant for the way back alone.
    pub fn to_undo(plan: Digest, manifest: Digest, ceilings: Arc<Vec<Ceiling>>) -> Self {
        Self { plan, manifest, ceilings, is_signed: false }
    }

    /// The ceiling over a deed, if the gate allowed it.
    pub(crate) fn ceiling(&self, ix: StepIx, deed: Deed) -> Option<&Ceiling> {
        self.ceilings.get(ix.at()).filter(|_| self.is_signed || deed == Deed::Undo)
    }
}

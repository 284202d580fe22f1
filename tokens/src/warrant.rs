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

    /// A warrant for the way back alone: of what is on record.
    pub fn to_undo(plan: Digest, manifest: Digest) -> Self {
        Self { plan, manifest, ceilings: Arc::default(), is_signed: false }
    }

    pub(crate) fn only_to_undo(self) -> Self {
        Self { is_signed: false, ..self }
    }

    /// Whether the gate allowed a deed. What is on record may be put back, whatever a later program makes of the plan's words.
    pub(crate) fn allows(&self, ix: StepIx, reach: Digest, deed: Deed) -> bool {
        let under = |ceiling: &Ceiling| self.is_signed && ceiling.reach == reach;
        deed == Deed::Undo || self.ceilings.get(ix.at()).is_some_and(under)
    }

    /// Whether the gate allowed a step to do what cannot be undone.
    pub(crate) fn allows_irreversible(&self, ix: StepIx) -> bool {
        self.ceilings.get(ix.at()).is_some_and(|ceiling| ceiling.irreversible)
    }
}

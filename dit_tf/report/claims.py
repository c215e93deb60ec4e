"""Every claim of the papers that a study has something to say about."""

from dit_tf.report.claims_flow import flow_claims
from dit_tf.report.claims_sampling import sampling_claims
from dit_tf.report.claims_scaling import scaling_claims


def claims_of(data):
    """`StudyData` -> [`Claim`]."""
    parts = (scaling_claims, sampling_claims, flow_claims)
    return [claim for part in parts for claim in part(data) if claim is not None]

"""The grading queue: which images wait for whom, who has which before the eyes, and what the room shows of them."""

from spica.db.queue.belong import QueueBounds, QueueKind, QueueOrder, belongs, gradable
from spica.db.queue.claim import LEASE_S, claim_images, claimed_by, end_claim, release_claims, renew_claims
from spica.db.queue.grade import Given, TakenBack, give_grade, take_back
from spica.db.queue.item import (
    GradeSaid,
    MachineSaid,
    Measures,
    Picture,
    PreviousExposure,
    QueueItem,
    read_items,
)
from spica.db.queue.pick import QueueView, SavedRule, day_number, read_saved_rules, view_queue

__all__ = [
    "LEASE_S",
    "Given",
    "GradeSaid",
    "MachineSaid",
    "Measures",
    "Picture",
    "PreviousExposure",
    "QueueBounds",
    "QueueItem",
    "QueueKind",
    "QueueOrder",
    "QueueView",
    "SavedRule",
    "TakenBack",
    "belongs",
    "claim_images",
    "claimed_by",
    "day_number",
    "end_claim",
    "give_grade",
    "gradable",
    "read_items",
    "read_saved_rules",
    "release_claims",
    "renew_claims",
    "take_back",
    "view_queue",
]

"""Selection rules: one small language that says which images are taken.

`parse_rule` reads a rule, `evaluate` is its meaning (true, false or unknown), `explain` names the clause that kept
an image out. The database compiles the same tree (`spica.db.selection`) and is tested against `evaluate`.
"""

from spica.model.selection.evaluate import Clause, Lists, Truth, distance_deg, evaluate, explain
from spica.model.selection.fields import FIELDS, Candidate, Field, FieldKind, like
from spica.model.selection.parse import DEFAULT_RULE, RuleError, parse_list, parse_rule
from spica.model.selection.rule import (
    And,
    Between,
    Compare,
    InList,
    IsKnown,
    Like,
    Not,
    OneOf,
    Or,
    Rule,
    Within,
    fields_of,
    format_rule,
    list_names,
    rule_sha256,
)

__all__ = [
    "DEFAULT_RULE",
    "FIELDS",
    "And",
    "Between",
    "Candidate",
    "Clause",
    "Compare",
    "Field",
    "FieldKind",
    "InList",
    "IsKnown",
    "Like",
    "Lists",
    "Not",
    "OneOf",
    "Or",
    "Rule",
    "RuleError",
    "Truth",
    "Within",
    "distance_deg",
    "evaluate",
    "explain",
    "fields_of",
    "format_rule",
    "like",
    "list_names",
    "parse_list",
    "parse_rule",
    "rule_sha256",
]

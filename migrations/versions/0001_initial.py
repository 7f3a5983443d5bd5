"""All tables; written by `python -m spica.db.schema --regenerate`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
ATTEMPT_STATE = postgresql.ENUM(
    "SUBMITTED", "RUNNING", "SUCCEEDED", "FAILED", "ABORTED", "LOST", name="attempt_state", create_type=False
)
DELIVERY_STATE = postgresql.ENUM(
    "prepared", "sent", "verified", "accepted", "damaged", name="delivery_state", create_type=False
)
EDGE_KIND = postgresql.ENUM("needs", "after", name="edge_kind", create_type=False)
FILE_KIND = postgresql.ENUM(
    "exposure", "calibration", "reference", "product", "ignored", name="file_kind", create_type=False
)
FRAME_TYPE = postgresql.ENUM("science", "flat", "dark", "bias", "other", name="frame_type", create_type=False)
GRADE_LETTER = postgresql.ENUM("A", "B", "C", "D", name="grade_letter", create_type=False)
GRADE_SOURCE = postgresql.ENUM("machine", "human", name="grade_source", create_type=False)
IMAGE_KIND = postgresql.ENUM("exposure", "stack", "calibrated", name="image_kind", create_type=False)
IMAGE_STATE = postgresql.ENUM(
    "registered",
    "assessed",
    "calibrated",
    "rejected",
    "failed",
    "planned",
    "running",
    "made",
    "delivered",
    "superseded",
    name="image_state",
    create_type=False,
)
ITEM_OUTCOME = postgresql.ENUM(
    "used", "used_with_warning", "left_out", "ignored", name="item_outcome", create_type=False
)
JOB_ARROW = postgresql.ENUM(
    "create",
    "release",
    "claim",
    "adopt",
    "succeed",
    "fail",
    "requeue",
    "prune",
    "hold",
    "unhold",
    "cancel_request",
    "cancel",
    "resubmit",
    name="job_arrow",
    create_type=False,
)
JOB_STATE = postgresql.ENUM(
    "HELD",
    "WAITING",
    "READY",
    "RUNNING",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
    "PRUNED",
    name="job_state",
    create_type=False,
)
LOCATION_STATE = postgresql.ENUM("present", "missing", name="location_state", create_type=False)
MARK_SHAPE = postgresql.ENUM("circle", "polygon", name="mark_shape", create_type=False)
MASTER_KIND = postgresql.ENUM("bias", "dark", "flat", "fringe", "bad_pixels", name="master_kind", create_type=False)
NODE_STATE = postgresql.ENUM("active", "draining", "stopped", name="node_state", create_type=False)
PERSON_ROLE = postgresql.ENUM("viewer", "grader", "operator", "admin", name="person_role", create_type=False)
PLAN_MODE = postgresql.ENUM("ingest", "master", "single", "survey", "area", name="plan_mode", create_type=False)
POSITION_SOURCE = postgresql.ENUM("solution", "header_wcs", "pointing", name="position_source", create_type=False)
ENUMS = (
    ATTEMPT_STATE,
    DELIVERY_STATE,
    EDGE_KIND,
    FILE_KIND,
    FRAME_TYPE,
    GRADE_LETTER,
    GRADE_SOURCE,
    IMAGE_KIND,
    IMAGE_STATE,
    ITEM_OUTCOME,
    JOB_ARROW,
    JOB_STATE,
    LOCATION_STATE,
    MARK_SHAPE,
    MASTER_KIND,
    NODE_STATE,
    PERSON_ROLE,
    PLAN_MODE,
    POSITION_SOURCE,
)


def upgrade() -> None:
    """Make the enums once, then the tables that share them."""
    for enum in ENUMS:
        enum.create(op.get_bind(), checkfirst=False)
    _create_file()
    _create_login_try()
    _create_person()
    _create_recipe()
    _create_setting()
    _create_tag_style()
    _create_audit()
    _create_bulk_grade()
    _create_content()
    _create_node()
    _create_rule()
    _create_session()
    _create_location()
    _create_placement()
    _create_rule_version()
    _create_selection()
    _create_plan()
    _create_image()
    _create_detector()
    _create_grade_claim()
    _create_header()
    _create_job()
    _create_mark()
    _create_measure()
    _create_sky_range()
    _create_source()
    _create_stack_input()
    _create_tag()
    _create_attempt()
    _create_job_edge()
    _create_mark_region()
    _create_calibration()
    _create_delivery()
    _create_image_reason()
    _create_job_event()
    _create_outcome()
    _create_product()
    _create_quality()
    _create_solution()
    _create_stack()
    _create_calibration_use()
    _create_grade()
    _create_solution_image()
    _create_grade_reason()
    _create_selection_member()
    _link()


def _create_file() -> None:
    op.create_table(
        "file",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="SHA-256 of the content, hexadecimal"),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="size, byte"),
        sa.Column("kind", FILE_KIND, nullable=False, comment="what it holds"),
        sa.Column("name", sa.Text(), nullable=False, comment="name it came with; not a path"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was first seen, UTC",
        ),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_file_sha256_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file")),
        sa.UniqueConstraint("sha256", name=op.f("uq_file_sha256")),
    )


def _create_login_try() -> None:
    op.create_table(
        "login_try",
        sa.Column("key_sha256", sa.Text(), nullable=False, comment="SHA-256 of name:NAME or from:ADDRESS"),
        sa.Column("n_failed", sa.Integer(), nullable=False, comment="tries that did not fit since the last quiet hour"),
        sa.Column(
            "tried_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when the last try was counted, UTC",
        ),
        sa.Column(
            "open_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="from when on the next try is let through, UTC",
        ),
        sa.PrimaryKeyConstraint("key_sha256", name=op.f("pk_login_try")),
    )
    op.create_index(op.f("ix_login_try_tried_at"), "login_try", ["tried_at"], unique=False)


def _create_person() -> None:
    op.create_table(
        "person",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("name", sa.Text(), nullable=False, comment="login name"),
        sa.Column("role", PERSON_ROLE, nullable=False, comment="what the person may do"),
        sa.Column("password_hash", sa.Text(), nullable=True, comment="salted hash; NULL: enters by token only"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when the person was added, UTC",
        ),
        sa.Column(
            "disabled_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the person was shut out, UTC; NULL: not yet",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person")),
        sa.UniqueConstraint("name", name=op.f("uq_person_name")),
    )


def _create_recipe() -> None:
    op.create_table(
        "recipe",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="hash of the canonical parameters"),
        sa.Column("name", sa.Text(), nullable=False, comment="name it was read under"),
        sa.Column("parameters", sa.Text(), nullable=False, comment="all parameters, canonical JSON"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was first used, UTC",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipe")),
        sa.UniqueConstraint("sha256", name=op.f("uq_recipe_sha256")),
    )


def _create_setting() -> None:
    op.create_table(
        "setting",
        sa.Column("name", sa.Text(), nullable=False, comment="name of the setting"),
        sa.Column("value", sa.Text(), nullable=False, comment="value as text"),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False, comment="counts changes"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_setting")),
    )


def _create_tag_style() -> None:
    op.create_table(
        "tag_style",
        sa.Column("name", sa.Text(), nullable=False, comment="the word"),
        sa.Column("colour", sa.Text(), nullable=False, comment="one of the pages' tag colours"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tag_style")),
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="when, UTC"
        ),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: the command line"),
        sa.Column("verb", sa.Text(), nullable=False, comment="what was done"),
        sa.Column("subject", sa.Text(), nullable=False, comment="to what, as noun:id"),
        sa.Column("detail", sa.Text(), nullable=True, comment="what was said"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_audit_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_person_id"), "audit", ["person_id"], unique=False)
    op.create_index(op.f("ix_audit_subject"), "audit", ["subject"], unique=False)
    op.create_index(op.f("ix_audit_verb"), "audit", ["verb"], unique=False)


def _create_bulk_grade() -> None:
    op.create_table(
        "bulk_grade",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("rule", sa.Text(), nullable=False, comment="text of the rule"),
        sa.Column("grade", GRADE_LETTER, nullable=False, comment="letter"),
        sa.Column("comment", sa.Text(), nullable=True, comment="what the grader said"),
        sa.Column("n_images", sa.Integer(), nullable=False, comment="images graded"),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: the command line"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when, UTC",
        ),
        sa.Column(
            "withdrawn_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was taken back, UTC; NULL: not yet",
        ),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_bulk_grade_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bulk_grade")),
    )


def _create_content() -> None:
    op.create_table(
        "content",
        sa.Column("file_id", sa.BigInteger(), nullable=False, comment="which file"),
        sa.Column("media_type", sa.Text(), nullable=False, comment="media type for a browser"),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="the bytes"),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_content_file_id")),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_content")),
    )


def _create_node() -> None:
    op.create_table(
        "node",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("name", sa.Text(), nullable=False, comment="name of the node"),
        sa.Column("host", sa.Text(), nullable=True, comment="host name it last ran on"),
        sa.Column("state", NODE_STATE, server_default="stopped", nullable=False, comment="what its daemon said last"),
        sa.Column("slots", sa.Integer(), server_default="0", nullable=False, comment="jobs at once"),
        sa.Column(
            "busy", sa.Integer(), server_default="0", nullable=False, comment="jobs running at the last heartbeat"
        ),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="last heartbeat of its daemon, UTC; NULL: not yet",
        ),
        sa.Column("disk_free_bytes", sa.BigInteger(), nullable=True, comment="free disk of its data root, byte"),
        sa.Column("load", sa.Float(), nullable=True, comment="load average of one minute"),
        sa.Column(
            "address", sa.Text(), nullable=True, comment="host:port where its daemon serves files; NULL: does not"
        ),
        sa.Column("token", sa.Text(), nullable=True, comment="bearer token that its file service asks of other nodes"),
        sa.Column(
            "drained_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="since when a person lets it take no new jobs, UTC; NULL: not yet",
        ),
        sa.Column("drained_why", sa.Text(), nullable=True, comment="why it is drained"),
        sa.Column("drained_by_id", sa.BigInteger(), nullable=True, comment="who drained it; NULL: the command line"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was first seen, UTC",
        ),
        sa.CheckConstraint("(drained_at IS NULL) = (drained_why IS NULL)", name=op.f("ck_node_drained_for_a_reason")),
        sa.CheckConstraint("drained_at IS NOT NULL OR drained_by_id IS NULL", name=op.f("ck_node_drained_by_somebody")),
        sa.ForeignKeyConstraint(["drained_by_id"], ["person.id"], name=op.f("fk_node_drained_by_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node")),
        sa.UniqueConstraint("name", name=op.f("uq_node_name")),
    )


def _create_rule() -> None:
    op.create_table(
        "rule",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("name", sa.Text(), nullable=False, comment="what people call it"),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="owner; NULL: the command line"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was first saved, UTC",
        ),
        sa.Column(
            "retired_at", sa.DateTime(timezone=True), nullable=True, comment="when it was put away, UTC; NULL: not yet"
        ),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_rule_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rule")),
        sa.UniqueConstraint("name", name=op.f("uq_rule_name")),
    )


def _create_session() -> None:
    op.create_table(
        "session",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("token_sha256", sa.Text(), nullable=False, comment="SHA-256 of the token; the token is not kept"),
        sa.Column("kind", sa.Text(), nullable=False, comment="login, session or api"),
        sa.Column("person_id", sa.BigInteger(), nullable=False, comment="whose"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was made, UTC",
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, comment="when it ends, UTC"),
        sa.Column(
            "used_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when a one-time token was spent, UTC; NULL: not yet",
        ),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when a session or token was last used, to about a minute, UTC; NULL: not yet",
        ),
        sa.Column("label", sa.Text(), nullable=True, comment="what a token is for, or the browser of a session"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_session_person_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_session_token_sha256")),
    )
    op.create_index(op.f("ix_session_person_id"), "session", ["person_id"], unique=False)


def _create_location() -> None:
    op.create_table(
        "location",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("file_id", sa.BigInteger(), nullable=False, comment="which file"),
        sa.Column("node_id", sa.BigInteger(), nullable=False, comment="on which node"),
        sa.Column("root", sa.Text(), nullable=False, comment="name of a root in the node's own configuration"),
        sa.Column("relative_path", sa.Text(), nullable=False, comment="path below the root"),
        sa.Column(
            "state", LOCATION_STATE, server_default="present", nullable=False, comment="whether it was there last"
        ),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was last seen there, UTC",
        ),
        sa.CheckConstraint("left(relative_path, 1) <> '/'", name=op.f("ck_location_path_is_relative")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_location_file_id")),
        sa.ForeignKeyConstraint(["node_id"], ["node.id"], name=op.f("fk_location_node_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_location")),
        sa.UniqueConstraint("node_id", "root", "relative_path", name=op.f("uq_location_node_id_root_relative_path")),
    )
    op.create_index(op.f("ix_location_file_id"), "location", ["file_id"], unique=False)


def _create_placement() -> None:
    op.create_table(
        "placement",
        sa.Column("run", sa.Text(), nullable=False, comment="run; '': every run"),
        sa.Column("filter", sa.Text(), nullable=False, comment="canonical filter; '': every filter"),
        sa.Column("node_id", sa.BigInteger(), nullable=False, comment="to which node"),
        sa.Column(
            "chosen",
            sa.Boolean(),
            server_default=sa.text("true"),
            nullable=False,
            comment="by a person; false: by free disk when the group first came",
        ),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: Spica itself"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when, UTC",
        ),
        sa.ForeignKeyConstraint(["node_id"], ["node.id"], name=op.f("fk_placement_node_id")),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_placement_person_id")),
        sa.PrimaryKeyConstraint("run", "filter", name=op.f("pk_placement")),
    )


def _create_rule_version() -> None:
    op.create_table(
        "rule_version",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("rule_id", sa.BigInteger(), nullable=False, comment="of which rule"),
        sa.Column("number", sa.Integer(), nullable=False, comment="counts from 1 within the rule"),
        sa.Column("text", sa.Text(), nullable=False, comment="the rule as it was written"),
        sa.Column("rule_sha256", sa.Text(), nullable=False, comment="hash of the rule's one spelling"),
        sa.Column("note", sa.Text(), nullable=True, comment="why it was changed"),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: the command line"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when, UTC",
        ),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_rule_version_person_id")),
        sa.ForeignKeyConstraint(["rule_id"], ["rule.id"], name=op.f("fk_rule_version_rule_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rule_version")),
        sa.UniqueConstraint("rule_id", "number", name=op.f("uq_rule_version_rule_id_number")),
    )
    op.create_index(op.f("ix_rule_version_rule_sha256"), "rule_version", ["rule_sha256"], unique=False)


def _create_selection() -> None:
    op.create_table(
        "selection",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("rule", sa.Text(), nullable=False, comment="text of the rule"),
        sa.Column("rule_sha256", sa.Text(), nullable=False, comment="hash of the text"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was judged, UTC",
        ),
        sa.Column(
            "rule_version_id", sa.BigInteger(), nullable=True, comment="saved version it was judged by; NULL: none"
        ),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: the command line"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_selection_person_id")),
        sa.ForeignKeyConstraint(["rule_version_id"], ["rule_version.id"], name=op.f("fk_selection_rule_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_selection")),
    )
    op.create_index(op.f("ix_selection_rule_version_id"), "selection", ["rule_version_id"], unique=False)


def _create_plan() -> None:
    op.create_table(
        "plan",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("mode", PLAN_MODE, nullable=False, comment="how exposures were chosen"),
        sa.Column("label", sa.Text(), nullable=False, comment="what people call it"),
        sa.Column("object_key", sa.Text(), nullable=True, comment="normalised object"),
        sa.Column("instrument", sa.Text(), nullable=True, comment="instrument"),
        sa.Column("filter", sa.Text(), nullable=True, comment="filter"),
        sa.Column("ra_deg", sa.Float(), nullable=True, comment="centre of the circle, degree"),
        sa.Column("dec_deg", sa.Float(), nullable=True, comment="centre of the circle, degree"),
        sa.Column("radius_deg", sa.Float(), nullable=True, comment="radius of the circle, degree"),
        sa.Column("recipe_id", sa.BigInteger(), nullable=True, comment="frozen recipe"),
        sa.Column("selection_id", sa.BigInteger(), nullable=True, comment="how its exposures were judged"),
        sa.Column(
            "product_hash",
            sa.Text(),
            nullable=True,
            comment="hash of inputs, measures judged, recipe, engine and version; makes nothing twice",
        ),
        sa.Column(
            "abandoned",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="its product will not be made; the same may be planned again",
        ),
        sa.Column("supersedes_id", sa.BigInteger(), nullable=True, comment="older plan whose product this replaces"),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: the command line"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was made, UTC",
        ),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_plan_person_id")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipe.id"], name=op.f("fk_plan_recipe_id")),
        sa.ForeignKeyConstraint(["selection_id"], ["selection.id"], name=op.f("fk_plan_selection_id")),
        sa.ForeignKeyConstraint(["supersedes_id"], ["plan.id"], name=op.f("fk_plan_supersedes_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan")),
    )
    op.create_index(
        "uq_plan_product_hash",
        "plan",
        ["product_hash"],
        unique=True,
        postgresql_where=sa.text("product_hash IS NOT NULL AND NOT abandoned"),
    )


def _create_image() -> None:
    op.create_table(
        "image",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("kind", IMAGE_KIND, nullable=False, comment="exposure, stack or calibrated copy"),
        sa.Column("state", IMAGE_STATE, nullable=False, comment="how far it has come"),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="file name without suffixes, ~sha8 added where not unique"
        ),
        sa.Column("file_id", sa.BigInteger(), nullable=True, comment="its pixels; NULL: not made yet"),
        sa.Column("plan_id", sa.BigInteger(), nullable=True, comment="plan that makes or took it in"),
        sa.Column("frame_type", FRAME_TYPE, server_default="science", nullable=False, comment="what the shutter saw"),
        sa.Column("instrument", sa.Text(), nullable=True, comment="name of the instrument's profile"),
        sa.Column("telescope", sa.Text(), nullable=True, comment="telescope, as the header says"),
        sa.Column("object", sa.Text(), nullable=True, comment="object, cleaned"),
        sa.Column("object_raw", sa.Text(), nullable=True, comment="object, as the header says"),
        sa.Column("object_key", sa.Text(), nullable=True, comment="object, normalised; what groups exposures"),
        sa.Column("filter", sa.Text(), nullable=True, comment="filter, canonical"),
        sa.Column("filter_raw", sa.Text(), nullable=True, comment="filter, as the header says"),
        sa.Column("run", sa.Text(), nullable=True, comment="observing run"),
        sa.Column("night", sa.Date(), nullable=True, comment="local noon to noon of the observatory"),
        sa.Column("exptime_s", sa.Float(), nullable=True, comment="exposure time, s"),
        sa.Column("mjd", sa.Float(), nullable=True, comment="middle of the exposure, MJD UTC, day"),
        sa.Column("airmass", sa.Float(), nullable=True, comment="airmass"),
        sa.Column("ra_deg", sa.Float(), nullable=True, comment="right ascension of the centre, ICRS, degree"),
        sa.Column("dec_deg", sa.Float(), nullable=True, comment="declination of the centre, ICRS, degree"),
        sa.Column(
            "radius_deg", sa.Float(), nullable=True, comment="circle around the centre that holds the footprint, degree"
        ),
        sa.Column("healpix", sa.BigInteger(), nullable=True, comment="HEALPix of the centre, order 29, nested"),
        sa.Column("position_source", POSITION_SOURCE, nullable=True, comment="where the footprint comes from"),
        sa.Column("n_detectors", sa.Integer(), server_default="0", nullable=False, comment="detectors"),
        sa.Column("mag_system", sa.Text(), nullable=True, comment="magnitude system of its zero point"),
        sa.Column("quality_id", sa.BigInteger(), nullable=True, comment="quality that counts"),
        sa.Column("grade_id", sa.BigInteger(), nullable=True, comment="grade that counts"),
        sa.Column("solution_id", sa.BigInteger(), nullable=True, comment="solution that counts"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was registered or planned, UTC",
        ),
        sa.CheckConstraint("dec_deg BETWEEN -90 AND 90", name=op.f("ck_image_dec_range")),
        sa.CheckConstraint("exptime_s >= 0", name=op.f("ck_image_exptime_positive")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_image_file_id")),
        sa.ForeignKeyConstraint(["grade_id"], ["grade.id"], name=op.f("fk_image_grade_id"), use_alter=True),
        sa.ForeignKeyConstraint(["plan_id"], ["plan.id"], name=op.f("fk_image_plan_id")),
        sa.ForeignKeyConstraint(["quality_id"], ["quality.id"], name=op.f("fk_image_quality_id"), use_alter=True),
        sa.ForeignKeyConstraint(["solution_id"], ["solution.id"], name=op.f("fk_image_solution_id"), use_alter=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image")),
        sa.UniqueConstraint("file_id", name=op.f("uq_image_file_id")),
        sa.UniqueConstraint("name", name=op.f("uq_image_name")),
    )
    op.create_index("ix_image_association", "image", ["kind", "object_key", "instrument", "filter"], unique=False)
    op.create_index("ix_image_group", "image", ["run", "filter"], unique=False)
    op.create_index("ix_image_healpix", "image", ["healpix"], unique=False)
    op.create_index("ix_image_lower_name", "image", [sa.literal_column("lower(name) text_pattern_ops")], unique=False)
    op.create_index(op.f("ix_image_mjd"), "image", ["mjd"], unique=False)
    op.create_index(op.f("ix_image_plan_id"), "image", ["plan_id"], unique=False)
    op.create_index("ix_image_state", "image", ["kind", "state", "id"], unique=False)


def _create_detector() -> None:
    op.create_table(
        "detector",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("number", sa.SmallInteger(), nullable=False, comment="index of the detector, from 0"),
        sa.Column("hdu", sa.SmallInteger(), nullable=False, comment="HDU in the file, from 0"),
        sa.Column("name", sa.Text(), nullable=False, comment="name of the detector"),
        sa.Column("n_x", sa.Integer(), nullable=False, comment="columns, pixel"),
        sa.Column("n_y", sa.Integer(), nullable=False, comment="rows, pixel"),
        sa.Column("gain_e_per_adu", sa.Float(), nullable=True, comment="gain, electron/ADU"),
        sa.Column("read_noise_e", sa.Float(), nullable=True, comment="read noise, electron"),
        sa.Column("saturation_adu", sa.Float(), nullable=True, comment="saturation level, ADU"),
        sa.Column("pixel_scale_arcsec", sa.Float(), nullable=True, comment="pixel scale, arcsec/pixel"),
        sa.Column("polygon_ra_deg", sa.ARRAY(sa.Float()), nullable=True, comment="corners, right ascension, degree"),
        sa.Column("polygon_dec_deg", sa.ARRAY(sa.Float()), nullable=True, comment="corners, declination, degree"),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_detector_image_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_detector")),
        sa.UniqueConstraint("image_id", "number", name=op.f("uq_detector_image_id_number")),
    )


def _create_grade_claim() -> None:
    op.create_table(
        "grade_claim",
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="which image"),
        sa.Column("person_id", sa.BigInteger(), nullable=False, comment="who has it before the eyes"),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False, comment="held until, UTC"),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_grade_claim_image_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["person_id"], ["person.id"], name=op.f("fk_grade_claim_person_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_grade_claim")),
    )
    op.create_index(op.f("ix_grade_claim_person_id"), "grade_claim", ["person_id"], unique=False)


def _create_header() -> None:
    op.create_table(
        "header",
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column(
            "cards", sa.LargeBinary(), nullable=False, comment="headers of all HDUs as spica.files.header packs them"
        ),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_header_image_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_header")),
    )


def _create_job() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("plan_id", sa.BigInteger(), nullable=True, comment="of which plan"),
        sa.Column("kind", sa.Text(), nullable=False, comment="kind of step"),
        sa.Column("engine", sa.Text(), nullable=False, comment="engine that runs it"),
        sa.Column("label", sa.Text(), server_default="", nullable=False, comment="what people call it"),
        sa.Column("image_id", sa.BigInteger(), nullable=True, comment="image it makes or judges"),
        sa.Column("state", JOB_STATE, nullable=False, comment="state; only spica.db.job changes it"),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False, comment="higher first"),
        sa.Column("node_id", sa.BigInteger(), nullable=True, comment="node that must run it; NULL: any"),
        sa.Column("request", sa.Text(), nullable=False, comment="request.json"),
        sa.Column("request_sha256", sa.Text(), nullable=False, comment="hash of the request"),
        sa.Column("script", sa.Text(), nullable=False, comment="run.sh"),
        sa.Column("script_sha256", sa.Text(), nullable=False, comment="hash of the script"),
        sa.Column("time_limit_s", sa.Integer(), nullable=False, comment="ended after this, s"),
        sa.Column("memory_mb", sa.Integer(), nullable=False, comment="resident memory it may take, MB"),
        sa.Column("memory_cap_mb", sa.Integer(), nullable=False, comment="memory is not doubled beyond this, MB"),
        sa.Column("tries", sa.SmallInteger(), nullable=False, comment="attempts at most since it was last submitted"),
        sa.Column(
            "tries_from",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="attempts made before it was last resubmitted",
        ),
        sa.Column(
            "not_before", sa.DateTime(timezone=True), nullable=True, comment="not claimed before, UTC; NULL: not yet"
        ),
        sa.Column(
            "cancel_requested_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when a person asked to end it, UTC; NULL: not yet",
        ),
        sa.Column("pruned_by_id", sa.BigInteger(), nullable=True, comment="parent whose end pruned it"),
        sa.Column("supersedes_id", sa.BigInteger(), nullable=True, comment="older job that this does again"),
        sa.Column("error_kind", sa.Text(), nullable=True, comment="class of the error that ended it"),
        sa.Column("error_text", sa.Text(), nullable=True, comment="what happened and what to do"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was planned, UTC",
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="when it ended, UTC; NULL: not yet"),
        sa.CheckConstraint("tries >= 1", name=op.f("ck_job_tries_positive")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_job_image_id")),
        sa.ForeignKeyConstraint(["node_id"], ["node.id"], name=op.f("fk_job_node_id")),
        sa.ForeignKeyConstraint(["plan_id"], ["plan.id"], name=op.f("fk_job_plan_id")),
        sa.ForeignKeyConstraint(["pruned_by_id"], ["job.id"], name=op.f("fk_job_pruned_by_id")),
        sa.ForeignKeyConstraint(["supersedes_id"], ["job.id"], name=op.f("fk_job_supersedes_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index(
        "ix_job_bound",
        "job",
        ["node_id", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'READY' AND node_id IS NOT NULL"),
    )
    op.create_index(
        "ix_job_claim",
        "job",
        [sa.literal_column("priority DESC"), "id"],
        unique=False,
        postgresql_where=sa.text("state = 'READY'"),
    )
    op.create_index("ix_job_ended", "job", ["ended_at"], unique=False)
    op.create_index(
        "ix_job_error", "job", ["error_kind", "id"], unique=False, postgresql_where=sa.text("error_kind IS NOT NULL")
    )
    op.create_index(op.f("ix_job_image_id"), "job", ["image_id"], unique=False)
    op.create_index(op.f("ix_job_plan_id"), "job", ["plan_id"], unique=False)
    op.create_index("ix_job_state", "job", ["state", "id"], unique=False)


def _create_mark() -> None:
    op.create_table(
        "mark",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="on which image"),
        sa.Column("comment", sa.Text(), nullable=True, comment="what is wrong there"),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: the command line"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when, UTC",
        ),
        sa.Column(
            "withdrawn_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was taken back, UTC; NULL: not yet",
        ),
        sa.Column("withdrawn_by_id", sa.BigInteger(), nullable=True, comment="who took it back"),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_mark_image_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_mark_person_id")),
        sa.ForeignKeyConstraint(["withdrawn_by_id"], ["person.id"], name=op.f("fk_mark_withdrawn_by_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mark")),
    )
    op.create_index(op.f("ix_mark_image_id"), "mark", ["image_id"], unique=False)


def _create_measure() -> None:
    op.create_table(
        "measure",
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("seeing_arcsec", sa.Float(), nullable=True, comment="FWHM of stars, median over detectors, arcsec"),
        sa.Column("ellipticity", sa.Float(), nullable=True, comment="1 - b/a of stars, median over detectors"),
        sa.Column("background_adu", sa.Float(), nullable=True, comment="sky background, ADU"),
        sa.Column("noise_adu", sa.Float(), nullable=True, comment="background noise of a pixel, ADU"),
        sa.Column(
            "limiting_mag", sa.Float(), nullable=True, comment="5 sigma in an aperture of 2 arcsec diameter, mag"
        ),
        sa.Column("n_stars", sa.Integer(), nullable=True, comment="stars accepted for the PSF"),
        sa.Column(
            "zero_point_mag", sa.Float(), nullable=True, comment="magnitude of 1 ADU/s (of 1 ADU in a stack), mag"
        ),
        sa.Column("skyprobe_mag", sa.Float(), nullable=True, comment="attenuation of the sky, mag"),
        sa.Column("grade", GRADE_LETTER, nullable=True, comment="letter of the grade that counts"),
        sa.Column("grade_source", GRADE_SOURCE, nullable=True, comment="who gave the grade that counts"),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_measure_image_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_measure")),
    )


def _create_sky_range() -> None:
    op.create_table(
        "sky_range",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("low", sa.BigInteger(), nullable=False, comment="first HEALPix index, order 29"),
        sa.Column("high", sa.BigInteger(), nullable=False, comment="index after the last, order 29"),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_sky_range_image_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sky_range")),
    )
    op.create_index(op.f("ix_sky_range_image_id"), "sky_range", ["image_id"], unique=False)
    op.create_index("ix_sky_range_low", "sky_range", ["low", "high"], unique=False)


def _create_source() -> None:
    op.create_table(
        "source",
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("number", sa.Integer(), nullable=False, comment="number in the catalogue"),
        sa.Column("healpix", sa.BigInteger(), nullable=False, comment="HEALPix of the position, order 29, nested"),
        sa.Column("ra_deg", sa.Float(), nullable=False, comment="windowed right ascension, degree"),
        sa.Column("dec_deg", sa.Float(), nullable=False, comment="windowed declination, degree"),
        sa.Column("x_pix", sa.REAL(), nullable=False, comment="windowed column, pixel from 0"),
        sa.Column("y_pix", sa.REAL(), nullable=False, comment="windowed row, pixel from 0"),
        sa.Column("mag_auto", sa.REAL(), nullable=True, comment="Kron-like magnitude, mag"),
        sa.Column("magerr_auto", sa.REAL(), nullable=True, comment="its error, mag"),
        sa.Column(
            "mag_aper", sa.ARRAY(sa.REAL()), nullable=True, comment="aperture magnitudes in the recipe's order, mag"
        ),
        sa.Column("magerr_aper", sa.ARRAY(sa.REAL()), nullable=True, comment="their errors, mag"),
        sa.Column("flux_radius_pix", sa.REAL(), nullable=True, comment="half-light radius, pixel"),
        sa.Column("fwhm_pix", sa.REAL(), nullable=True, comment="FWHM, pixel"),
        sa.Column("elongation", sa.REAL(), nullable=True, comment="a/b"),
        sa.Column("flags", sa.SmallInteger(), nullable=False, comment="SExtractor's extraction flags"),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_source_image_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("image_id", "number", name=op.f("pk_source")),
    )
    op.create_index("ix_source_healpix", "source", ["healpix"], unique=False)


def _create_stack_input() -> None:
    op.create_table(
        "stack_input",
        sa.Column("stack_id", sa.BigInteger(), nullable=False, comment="of which stack"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="which exposure"),
        sa.Column("outcome", ITEM_OUTCOME, nullable=True, comment="NULL: not made yet"),
        sa.Column("code", sa.Text(), nullable=True, comment="reason code where left out"),
        sa.Column("text", sa.Text(), nullable=True, comment="reason where left out"),
        sa.Column("weight_fraction", sa.Float(), nullable=True, comment="share of the total weight"),
        sa.Column("clipped_fraction", sa.Float(), nullable=True, comment="fraction of its pixels clipped"),
        sa.Column("flux_scale", sa.Float(), nullable=True, comment="factor from ADU to ADU of the stack"),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_stack_input_image_id")),
        sa.ForeignKeyConstraint(["stack_id"], ["image.id"], name=op.f("fk_stack_input_stack_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("stack_id", "image_id", name=op.f("pk_stack_input")),
    )
    op.create_index(op.f("ix_stack_input_image_id"), "stack_input", ["image_id"], unique=False)


def _create_tag() -> None:
    op.create_table(
        "tag",
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("name", sa.Text(), nullable=False, comment="the word"),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: the command line"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when, UTC",
        ),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_tag_image_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_tag_person_id")),
        sa.PrimaryKeyConstraint("image_id", "name", name=op.f("pk_tag")),
    )
    op.create_index("ix_tag_name", "tag", ["name", "image_id"], unique=False)


def _create_attempt() -> None:
    op.create_table(
        "attempt",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("job_id", sa.BigInteger(), nullable=False, comment="of which job"),
        sa.Column("number", sa.Integer(), nullable=False, comment="counts from 1 within the job"),
        sa.Column(
            "fence",
            sa.BigInteger(),
            sa.Identity(always=False),
            nullable=False,
            comment="only the newest fence of a job may be harvested",
        ),
        sa.Column("node_id", sa.BigInteger(), nullable=False, comment="on which node"),
        sa.Column("state", ATTEMPT_STATE, nullable=False, comment="state"),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False, comment="the node must renew before, UTC"),
        sa.Column("pid", sa.Integer(), nullable=True, comment="process group on the node"),
        sa.Column("pid_started", sa.Float(), nullable=True, comment="start time of the process, s since the epoch"),
        sa.Column("external_id", sa.Text(), nullable=True, comment="number in a batch system"),
        sa.Column("memory_mb", sa.Integer(), nullable=False, comment="memory it was given, MB"),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was claimed, UTC",
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="when it ended, UTC; NULL: not yet"),
        sa.Column("exit_code", sa.Integer(), nullable=True, comment="exit code; negative: the signal"),
        sa.Column("seconds", sa.Float(), nullable=True, comment="wall time, s"),
        sa.Column("peak_memory_mb", sa.Float(), nullable=True, comment="peak resident memory, MB"),
        sa.Column("error_kind", sa.Text(), nullable=True, comment="class of the error"),
        sa.Column("error_text", sa.Text(), nullable=True, comment="what happened"),
        sa.Column("log_tail", sa.Text(), nullable=True, comment="last lines of the log"),
        sa.Column("log_file_id", sa.BigInteger(), nullable=True, comment="whole log"),
        sa.Column("result_sha256", sa.Text(), nullable=True, comment="hash of the result that was harvested"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_attempt_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["log_file_id"], ["file.id"], name=op.f("fk_attempt_log_file_id")),
        sa.ForeignKeyConstraint(["node_id"], ["node.id"], name=op.f("fk_attempt_node_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.UniqueConstraint("fence", name=op.f("uq_attempt_fence")),
        sa.UniqueConstraint("job_id", "number", name=op.f("uq_attempt_job_id_number")),
    )
    op.create_index("ix_attempt_node", "attempt", ["node_id", "state"], unique=False)
    op.create_index(
        "uq_attempt_live",
        "attempt",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('SUBMITTED', 'RUNNING')"),
    )


def _create_job_edge() -> None:
    op.create_table(
        "job_edge",
        sa.Column("parent_id", sa.BigInteger(), nullable=False, comment="goes first"),
        sa.Column("child_id", sa.BigInteger(), nullable=False, comment="waits"),
        sa.Column("kind", EDGE_KIND, nullable=False, comment="needs or after"),
        sa.ForeignKeyConstraint(["child_id"], ["job.id"], name=op.f("fk_job_edge_child_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["parent_id"], ["job.id"], name=op.f("fk_job_edge_parent_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("parent_id", "child_id", name=op.f("pk_job_edge")),
    )
    op.create_index(op.f("ix_job_edge_child_id"), "job_edge", ["child_id"], unique=False)


def _create_mark_region() -> None:
    op.create_table(
        "mark_region",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("mark_id", sa.BigInteger(), nullable=False, comment="part of which mark"),
        sa.Column("number", sa.SmallInteger(), nullable=False, comment="index of the detector, from 0"),
        sa.Column("shape", MARK_SHAPE, nullable=False, comment="circle or polygon"),
        sa.Column("x_pix", sa.ARRAY(sa.Float()), nullable=False, comment="columns of centre or corners, pixel from 0"),
        sa.Column("y_pix", sa.ARRAY(sa.Float()), nullable=False, comment="rows of centre or corners, pixel from 0"),
        sa.Column("radius_pix", sa.Float(), nullable=True, comment="radius of a circle, pixel"),
        sa.CheckConstraint(
            "(shape = 'circle') = (radius_pix IS NOT NULL)", name=op.f("ck_mark_region_circle_has_radius")
        ),
        sa.CheckConstraint("cardinality(x_pix) = cardinality(y_pix)", name=op.f("ck_mark_region_as_many_y_as_x")),
        sa.ForeignKeyConstraint(["mark_id"], ["mark.id"], name=op.f("fk_mark_region_mark_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mark_region")),
    )
    op.create_index(op.f("ix_mark_region_mark_id"), "mark_region", ["mark_id"], unique=False)


def _create_calibration() -> None:
    op.create_table(
        "calibration",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("file_id", sa.BigInteger(), nullable=False, comment="which file"),
        sa.Column("kind", MASTER_KIND, nullable=False, comment="what it corrects"),
        sa.Column("instrument", sa.Text(), nullable=False, comment="instrument"),
        sa.Column("filter", sa.Text(), nullable=True, comment="filter, canonical; NULL: any"),
        sa.Column("run", sa.Text(), nullable=True, comment="run; NULL: any"),
        sa.Column("first_night", sa.Date(), nullable=True, comment="first night it holds for; NULL: always"),
        sa.Column("last_night", sa.Date(), nullable=True, comment="last night it holds for; NULL: for ever"),
        sa.Column("mjd", sa.Float(), nullable=True, comment="mean of its frames, MJD UTC, day"),
        sa.Column("exptime_s", sa.Float(), nullable=True, comment="exposure time of the frames of a dark, s"),
        sa.Column(
            "n_inputs", sa.Integer(), server_default="0", nullable=False, comment="frames combined; 0: came as it is"
        ),
        sa.Column("product_hash", sa.Text(), nullable=True, comment="hash of its frames and recipe"),
        sa.Column(
            "attempt_id", sa.BigInteger(), nullable=True, comment="attempt that made it; NULL: came from outside"
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was registered, UTC",
        ),
        sa.Column(
            "withdrawn_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was withdrawn; it is used no more, UTC; NULL: not yet",
        ),
        sa.CheckConstraint("first_night <= last_night", name=op.f("ck_calibration_nights_ordered")),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_calibration_attempt_id")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_calibration_file_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibration")),
        sa.UniqueConstraint("file_id", "kind", name=op.f("uq_calibration_file_id_kind")),
    )
    op.create_index(op.f("ix_calibration_attempt_id"), "calibration", ["attempt_id"], unique=False)
    op.create_index("ix_calibration_find", "calibration", ["kind", "instrument", "filter", "run"], unique=False)
    op.create_index(op.f("ix_calibration_product_hash"), "calibration", ["product_hash"], unique=False)


def _create_delivery() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="what is delivered"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=False, comment="attempt that delivered"),
        sa.Column("node_id", sa.BigInteger(), nullable=False, comment="on which node"),
        sa.Column("folder", sa.Text(), nullable=False, comment="folder below the node's root `outgoing`"),
        sa.Column("manifest_sha256", sa.Text(), nullable=False, comment="hash of manifest.json"),
        sa.Column("state", DELIVERY_STATE, nullable=False, comment="how far it has come"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was prepared, UTC",
        ),
        sa.Column("fault", sa.Text(), nullable=True, comment="what the last check found wrong; NULL: nothing"),
        sa.Column(
            "checked_at", sa.DateTime(timezone=True), nullable=True, comment="when its files were last checked, UTC"
        ),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_delivery_attempt_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_delivery_image_id")),
        sa.ForeignKeyConstraint(["node_id"], ["node.id"], name=op.f("fk_delivery_node_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("attempt_id", name=op.f("uq_delivery_attempt_id")),
    )
    op.create_index(op.f("ix_delivery_image_id"), "delivery", ["image_id"], unique=False)


def _create_image_reason() -> None:
    op.create_table(
        "image_reason",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=True, comment="attempt that said so"),
        sa.Column("code", sa.Text(), nullable=False, comment="stable code"),
        sa.Column("text", sa.Text(), nullable=False, comment="sentence"),
        sa.Column("value", sa.Text(), nullable=True, comment="value judged"),
        sa.Column("limit", sa.Text(), nullable=True, comment="limit it broke"),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="when, UTC"
        ),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_image_reason_attempt_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_image_reason_image_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image_reason")),
    )
    op.create_index(op.f("ix_image_reason_image_id"), "image_reason", ["image_id"], unique=False)


def _create_job_event() -> None:
    op.create_table(
        "job_event",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("job_id", sa.BigInteger(), nullable=False, comment="of which job"),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="when, UTC",
        ),
        sa.Column("arrow", JOB_ARROW, nullable=False, comment="which arrow"),
        sa.Column("from_state", JOB_STATE, nullable=True, comment="state before; NULL: created"),
        sa.Column("to_state", JOB_STATE, nullable=False, comment="state after"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=True, comment="attempt it concerns"),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: Spica itself or the command line"),
        sa.Column("cause_job_id", sa.BigInteger(), nullable=True, comment="other job that caused it"),
        sa.Column("why", sa.Text(), nullable=True, comment="in words"),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_job_event_attempt_id")),
        sa.ForeignKeyConstraint(["cause_job_id"], ["job.id"], name=op.f("fk_job_event_cause_job_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_event_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_job_event_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_event")),
    )
    op.create_index(op.f("ix_job_event_job_id"), "job_event", ["job_id"], unique=False)


def _create_outcome() -> None:
    op.create_table(
        "outcome",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=False, comment="of which attempt"),
        sa.Column("image_id", sa.BigInteger(), nullable=True, comment="which image"),
        sa.Column("file_id", sa.BigInteger(), nullable=True, comment="which file, where there is no image"),
        sa.Column("number", sa.SmallInteger(), nullable=True, comment="index of the detector; NULL: all"),
        sa.Column("outcome", ITEM_OUTCOME, nullable=False, comment="what became of it"),
        sa.Column("code", sa.Text(), nullable=True, comment="stable code of the reason"),
        sa.Column("text", sa.Text(), nullable=True, comment="the reason as a sentence"),
        sa.Column("value", sa.Text(), nullable=True, comment="value judged"),
        sa.Column("limit", sa.Text(), nullable=True, comment="limit it broke"),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_outcome_attempt_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_outcome_file_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_outcome_image_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outcome")),
    )
    op.create_index(op.f("ix_outcome_attempt_id"), "outcome", ["attempt_id"], unique=False)
    op.create_index(op.f("ix_outcome_file_id"), "outcome", ["file_id"], unique=False)
    op.create_index(op.f("ix_outcome_image_id"), "outcome", ["image_id"], unique=False)


def _create_product() -> None:
    op.create_table(
        "product",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("job_id", sa.BigInteger(), nullable=False, comment="by which job"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=False, comment="by which attempt"),
        sa.Column("role", sa.Text(), nullable=False, comment="seat among the products"),
        sa.Column("name", sa.Text(), nullable=False, comment="name for people"),
        sa.Column("image_id", sa.BigInteger(), nullable=True, comment="of which image"),
        sa.Column("number", sa.SmallInteger(), nullable=True, comment="index of the detector; NULL: all"),
        sa.Column("file_id", sa.BigInteger(), nullable=False, comment="which file"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was harvested, UTC",
        ),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_product_attempt_id")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_product_file_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_product_image_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_product_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_product")),
    )
    op.create_index(op.f("ix_product_attempt_id"), "product", ["attempt_id"], unique=False)
    op.create_index(op.f("ix_product_file_id"), "product", ["file_id"], unique=False)
    op.create_index("ix_product_image", "product", ["image_id", "role"], unique=False)
    op.create_index(op.f("ix_product_job_id"), "product", ["job_id"], unique=False)


def _create_quality() -> None:
    op.create_table(
        "quality",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=False, comment="attempt that measured"),
        sa.Column(
            "parent_id", sa.BigInteger(), nullable=True, comment="assessment of the whole image; NULL: this is it"
        ),
        sa.Column("number", sa.SmallInteger(), nullable=True, comment="index of the detector; NULL: the whole image"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was recorded, UTC",
        ),
        sa.Column("seeing_arcsec", sa.Float(), nullable=True, comment="FWHM of a Moffat fit to stars, arcsec"),
        sa.Column("fwhm_pix", sa.Float(), nullable=True, comment="the same, pixel"),
        sa.Column("ellipticity", sa.Float(), nullable=True, comment="1 - b/a of stars"),
        sa.Column(
            "position_angle_deg",
            sa.Float(),
            nullable=True,
            comment="position angle of the ellipticity, degree from +x to +y",
        ),
        sa.Column("moffat_beta", sa.Float(), nullable=True, comment="Moffat exponent"),
        sa.Column("psf_chi2", sa.Float(), nullable=True, comment="reduced chi square of the PSF fit"),
        sa.Column("background_adu", sa.Float(), nullable=True, comment="sky background, ADU"),
        sa.Column("noise_adu", sa.Float(), nullable=True, comment="background noise of a pixel, ADU"),
        sa.Column(
            "limiting_mag", sa.Float(), nullable=True, comment="5 sigma in an aperture of 2 arcsec diameter, mag"
        ),
        sa.Column("limiting_flux_adu", sa.Float(), nullable=True, comment="the same as a flux, ADU"),
        sa.Column("n_sources", sa.Integer(), nullable=True, comment="sources"),
        sa.Column("n_stars", sa.Integer(), nullable=True, comment="stars accepted for the PSF"),
        sa.Column("saturated_fraction", sa.Float(), nullable=True, comment="fraction of pixels saturated"),
        sa.Column("cosmic_fraction", sa.Float(), nullable=True, comment="fraction of pixels hit by cosmic rays"),
        sa.Column("masked_fraction", sa.Float(), nullable=True, comment="fraction of pixels of zero weight"),
        sa.Column("n_trails", sa.Integer(), nullable=True, comment="satellite trails"),
        sa.Column("zero_point_mag", sa.Float(), nullable=True, comment="zero point it was measured with, mag"),
        sa.Column("skyprobe_mag", sa.Float(), nullable=True, comment="attenuation of the sky, mag"),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_quality_attempt_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_quality_image_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["parent_id"], ["quality.id"], name=op.f("fk_quality_parent_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quality")),
    )
    op.create_index(op.f("ix_quality_attempt_id"), "quality", ["attempt_id"], unique=False)
    op.create_index(op.f("ix_quality_image_id"), "quality", ["image_id"], unique=False)
    op.create_index(op.f("ix_quality_parent_id"), "quality", ["parent_id"], unique=False)


def _create_solution() -> None:
    op.create_table(
        "solution",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=False, comment="attempt that solved"),
        sa.Column("plan_id", sa.BigInteger(), nullable=True, comment="of which plan"),
        sa.Column("reference_name", sa.Text(), nullable=False, comment="reference catalogue"),
        sa.Column("n_reference", sa.Integer(), nullable=False, comment="reference stars matched"),
        sa.Column("internal_mas", sa.Float(), nullable=True, comment="rms per axis between exposures, mas"),
        sa.Column("reference_mas", sa.Float(), nullable=True, comment="rms per axis to the reference, mas"),
        sa.Column("internal_mag", sa.Float(), nullable=True, comment="rms between exposures, mag"),
        sa.Column("reference_mag", sa.Float(), nullable=True, comment="rms to the reference, mag"),
        sa.Column("mag_system", sa.Text(), nullable=True, comment="magnitude system; NULL: relative only"),
        sa.Column("mag_band", sa.Text(), nullable=True, comment="band of the reference"),
        sa.Column("holds", sa.Boolean(), nullable=False, comment="whether the verdict is good"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was recorded, UTC",
        ),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_solution_attempt_id")),
        sa.ForeignKeyConstraint(["plan_id"], ["plan.id"], name=op.f("fk_solution_plan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_solution")),
        sa.UniqueConstraint("attempt_id", name=op.f("uq_solution_attempt_id")),
    )
    op.create_index(op.f("ix_solution_plan_id"), "solution", ["plan_id"], unique=False)


def _create_stack() -> None:
    op.create_table(
        "stack",
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="its image row"),
        sa.Column("mode", PLAN_MODE, nullable=False, comment="how its exposures were chosen"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=True, comment="attempt that made it; NULL: planned"),
        sa.Column("n_inputs", sa.Integer(), nullable=True, comment="exposures combined"),
        sa.Column("n_x", sa.Integer(), nullable=True, comment="columns, pixel"),
        sa.Column("n_y", sa.Integer(), nullable=True, comment="rows, pixel"),
        sa.Column("pixel_scale_arcsec", sa.Float(), nullable=True, comment="pixel scale, arcsec/pixel"),
        sa.Column("zero_point_mag", sa.Float(), nullable=True, comment="magnitude of 1 ADU, mag; NULL: relative only"),
        sa.Column("mag_band", sa.Text(), nullable=True, comment="band of the reference"),
        sa.Column("gain_e_per_adu", sa.Float(), nullable=True, comment="effective gain, electron/ADU"),
        sa.Column("saturation_adu", sa.Float(), nullable=True, comment="lowest saturation of the inputs in its ADU"),
        sa.Column("combine", sa.Text(), nullable=True, comment="how pixels were combined"),
        sa.Column("superseded_by_id", sa.BigInteger(), nullable=True, comment="newer stack of the same association"),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_stack_attempt_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_stack_image_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["superseded_by_id"], ["image.id"], name=op.f("fk_stack_superseded_by_id")),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_stack")),
    )


def _create_calibration_use() -> None:
    op.create_table(
        "calibration_use",
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="which exposure"),
        sa.Column("attempt_id", sa.BigInteger(), nullable=False, comment="in which attempt"),
        sa.Column("calibration_id", sa.BigInteger(), nullable=False, comment="which master"),
        sa.Column(
            "corrected", sa.Boolean(), nullable=False, comment="whether pixels were corrected; false: weighted only"
        ),
        sa.Column("scale", sa.Float(), nullable=True, comment="amplitude of a fringe pattern, ADU"),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_calibration_use_attempt_id")),
        sa.ForeignKeyConstraint(["calibration_id"], ["calibration.id"], name=op.f("fk_calibration_use_calibration_id")),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_calibration_use_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "attempt_id", "calibration_id", name=op.f("pk_calibration_use")),
    )
    op.create_index(op.f("ix_calibration_use_calibration_id"), "calibration_use", ["calibration_id"], unique=False)


def _create_grade() -> None:
    op.create_table(
        "grade",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("source", GRADE_SOURCE, nullable=False, comment="machine or human"),
        sa.Column("grade", GRADE_LETTER, nullable=False, comment="letter"),
        sa.Column("person_id", sa.BigInteger(), nullable=True, comment="who; NULL: machine or command line"),
        sa.Column("comment", sa.Text(), nullable=True, comment="what the grader said"),
        sa.Column("quality_id", sa.BigInteger(), nullable=True, comment="quality that was judged"),
        sa.Column(
            "attempt_id", sa.BigInteger(), nullable=True, comment="attempt of a machine grade; NULL: regrade or human"
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when, UTC",
        ),
        sa.Column(
            "withdrawn_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was taken back, UTC; NULL: not yet",
        ),
        sa.Column("bulk_id", sa.BigInteger(), nullable=True, comment="act that graded many at once; NULL: one by one"),
        sa.Column(
            "blind",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="given without seeing other grades",
        ),
        sa.Column(
            "seconds",
            sa.REAL(),
            nullable=True,
            comment="how long the image stood before the grader, s; NULL: not in the queue",
        ),
        sa.CheckConstraint("source = 'machine' OR attempt_id IS NULL", name=op.f("ck_grade_human_without_attempt")),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_grade_attempt_id")),
        sa.ForeignKeyConstraint(["bulk_id"], ["bulk_grade.id"], name=op.f("fk_grade_bulk_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_grade_image_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_grade_person_id")),
        sa.ForeignKeyConstraint(["quality_id"], ["quality.id"], name=op.f("fk_grade_quality_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grade")),
    )
    op.create_index(op.f("ix_grade_bulk_id"), "grade", ["bulk_id"], unique=False)
    op.create_index(op.f("ix_grade_image_id"), "grade", ["image_id"], unique=False)


def _create_solution_image() -> None:
    op.create_table(
        "solution_image",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("solution_id", sa.BigInteger(), nullable=False, comment="of which solution"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="of which image"),
        sa.Column("n_reference", sa.Integer(), nullable=False, comment="reference stars matched"),
        sa.Column("n_photometric", sa.Integer(), nullable=False, comment="stars of its zero point"),
        sa.Column("internal_mas", sa.Float(), nullable=True, comment="rms per axis to other exposures, mas"),
        sa.Column("reference_mas", sa.Float(), nullable=True, comment="rms per axis to the reference, mas"),
        sa.Column(
            "pointing_offset_arcsec", sa.Float(), nullable=True, comment="solved centre from the header's, arcsec"
        ),
        sa.Column("rotation_deg", sa.Float(), nullable=True, comment="position angle of +y, degree"),
        sa.Column("contrast", sa.Float(), nullable=True, comment="contrast of the match"),
        sa.Column(
            "zero_point_mag", sa.Float(), nullable=True, comment="magnitude of 1 ADU/s, mag; NULL: relative only"
        ),
        sa.Column("zero_point_error_mag", sa.Float(), nullable=True, comment="its error, mag"),
        sa.Column(
            "relative_zero_point_mag", sa.Float(), nullable=True, comment="zero point relative to the ensemble, mag"
        ),
        sa.Column("skyprobe_mag", sa.Float(), nullable=True, comment="attenuation of the sky, mag"),
        sa.Column("flux_scale", sa.Float(), nullable=False, comment="factor from ADU to ADU of the stack"),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_solution_image_image_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["solution_id"], ["solution.id"], name=op.f("fk_solution_image_solution_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_solution_image")),
        sa.UniqueConstraint("solution_id", "image_id", name=op.f("uq_solution_image_solution_id_image_id")),
    )
    op.create_index(op.f("ix_solution_image_image_id"), "solution_image", ["image_id"], unique=False)


def _create_grade_reason() -> None:
    op.create_table(
        "grade_reason",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="surrogate key"),
        sa.Column("grade_id", sa.BigInteger(), nullable=False, comment="of which grade"),
        sa.Column("code", sa.Text(), nullable=False, comment="stable code"),
        sa.Column("text", sa.Text(), nullable=False, comment="sentence"),
        sa.Column("value", sa.Text(), nullable=True, comment="value judged"),
        sa.Column("limit", sa.Text(), nullable=True, comment="limit it broke"),
        sa.ForeignKeyConstraint(["grade_id"], ["grade.id"], name=op.f("fk_grade_reason_grade_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grade_reason")),
    )
    op.create_index(op.f("ix_grade_reason_grade_id"), "grade_reason", ["grade_id"], unique=False)


def _create_selection_member() -> None:
    op.create_table(
        "selection_member",
        sa.Column("selection_id", sa.BigInteger(), nullable=False, comment="of which selection"),
        sa.Column("image_id", sa.BigInteger(), nullable=False, comment="which candidate"),
        sa.Column("chosen", sa.Boolean(), nullable=False, comment="in or out"),
        sa.Column("clause", sa.Text(), nullable=True, comment="first clause that failed, or was unknown"),
        sa.Column("value", sa.Text(), nullable=True, comment="value the clause saw; 'unknown' where it was"),
        sa.Column("quality_id", sa.BigInteger(), nullable=True, comment="quality judged"),
        sa.Column("grade_id", sa.BigInteger(), nullable=True, comment="grade judged"),
        sa.ForeignKeyConstraint(["grade_id"], ["grade.id"], name=op.f("fk_selection_member_grade_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_selection_member_image_id")),
        sa.ForeignKeyConstraint(["quality_id"], ["quality.id"], name=op.f("fk_selection_member_quality_id")),
        sa.ForeignKeyConstraint(
            ["selection_id"], ["selection.id"], name=op.f("fk_selection_member_selection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("selection_id", "image_id", name=op.f("pk_selection_member")),
    )
    op.create_index(op.f("ix_selection_member_image_id"), "selection_member", ["image_id"], unique=False)


def _link() -> None:
    op.create_foreign_key(op.f("fk_image_grade_id"), "image", "grade", ["grade_id"], ["id"], use_alter=True)
    op.create_foreign_key(op.f("fk_image_quality_id"), "image", "quality", ["quality_id"], ["id"], use_alter=True)
    op.create_foreign_key(op.f("fk_image_solution_id"), "image", "solution", ["solution_id"], ["id"], use_alter=True)

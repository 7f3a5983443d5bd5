"""The survey as JSON, a module each noun; `ROUTERS` holds them all."""

from spica_web.api import grade, image, job, node, rule, schema, stack, status

ROUTERS = tuple(module.router for module in (status, image, stack, job, node, rule, grade, schema))

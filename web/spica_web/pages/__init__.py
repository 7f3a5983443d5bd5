"""The pages, a module each noun; `ROUTERS` holds them all."""

from spica_web.pages import (
    account,
    audit,
    exposure,
    file,
    home,
    image,
    job,
    live,
    login,
    node,
    person,
    plan,
    rule,
    stack,
)

ROUTERS = tuple(
    module.router
    for module in (home, exposure, image, rule, stack, plan, job, node, person, account, audit, login, file, live)
)

# Spica in a container. The wheel is built in one stage; the other holds only what runs.

FROM python:3.12-slim AS build
WORKDIR /source
RUN pip install --no-cache-dir build
COPY pyproject.toml setup.py README.md LICENSE ./
COPY spica spica
COPY web web
COPY daemon daemon
COPY migrations migrations
RUN python -m build --wheel --outdir /wheels

FROM python:3.12-slim
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt /tmp/wheels/*.whl \
    && rm -rf /tmp/wheels /tmp/constraints.txt \
    && useradd --create-home --uid 10001 spica \
    && mkdir -p /survey /nodes/n1 /nodes/n2 \
    && chown -R spica:spica /survey /nodes
USER spica
ENV SPICA_WORKSPACE=/survey
WORKDIR /survey
EXPOSE 8765
ENTRYPOINT ["spica"]
CMD ["--help"]

# One image for every agent: docker build -t tierflow:local .
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY schemas schemas
COPY streams streams
COPY registry registry
COPY agents agents
COPY tierflow tierflow
RUN python -m venv /opt/tierflow \
    && /opt/tierflow/bin/pip install --no-cache-dir -c constraints.txt '.[solver,otlp]'

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /data tierflow \
    && mkdir -p /data/archive \
    && chown -R tierflow /data
COPY --from=build /opt/tierflow /opt/tierflow
ENV PATH=/opt/tierflow/bin:$PATH PYTHONUNBUFFERED=1
USER tierflow
WORKDIR /data
VOLUME /data/archive
ENTRYPOINT ["tierflow"]
CMD ["--help"]

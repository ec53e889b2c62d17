# Any image with the same Python in both stages will do.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv && python -m venv /build
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN /venv/bin/pip install --only-binary=:all: --require-hashes -r requirements.lock && \
    /build/bin/pip install --only-binary=:all: --require-hashes -r requirements-build.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY verifier verifier
# Isolated, a build would fetch the newest build tools without a hash, and the wheel names their version.
RUN /build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheel . && \
    /venv/bin/pip install --no-index --no-deps /wheel/*.whl && /venv/bin/pip uninstall --yes pip
# Bytecode without the time of its source: two builds have the same files.
RUN /venv/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /venv/lib

FROM ${BASE}
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VERIFIER_HOST=0.0.0.0 \
    VERIFIER_KEYS=/keys
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s --retries=3 CMD ["verifier", "healthcheck"]
ENTRYPOINT ["verifier"]
CMD ["serve"]

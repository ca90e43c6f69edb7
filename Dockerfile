FROM python:3.11-slim-bookworm AS build
COPY . /src
RUN python3 -m venv /opt/bids_qsm && /opt/bids_qsm/bin/pip install --no-cache-dir --no-compile /src

FROM python:3.11-slim-bookworm
COPY --from=build /opt/bids_qsm /opt/bids_qsm
# any user, a read-only root and no HOME: caches go where everybody may write
ENV PATH=/opt/bids_qsm/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba \
    TEMPLATEFLOW_HOME=/tmp/templateflow NILEARN_DATA=/tmp/nilearn NIPYPE_NO_ET=1 NO_ET=1
ENTRYPOINT ["bids_qsm"]

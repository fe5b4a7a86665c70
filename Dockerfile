# A CPU image of dpaat, without CUDA.
#   docker build -t dpaat .
#   docker run --rm -v "$PWD:/work" -v dpaat-cache:/cache dpaat train --data folder:photos --out runs/photos
FROM python:3.13-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 DPAAT_CACHE=/cache HOME=/tmp
RUN pip install uv && uv pip install --system --torch-backend cpu torch torchvision
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install /src && rm -r /src && mkdir -m 1777 /cache

WORKDIR /work
ENTRYPOINT ["dpaat"]
CMD ["--help"]

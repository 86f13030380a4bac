# prefork with the echo app. A service of your own: FROM this image, COPY its code and config to /app, and
# CMD ["run", "/app/conf/chat.yaml"].
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY prefork prefork
RUN python -m venv /opt/prefork && /opt/prefork/bin/python -m pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/prefork /opt/prefork
COPY conf/echo.yaml /app/conf/echo.yaml
ENV PATH="/opt/prefork/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# The run directory of this user is /tmp/prefork-65532: with a read-only root, mount a tmpfs at /tmp.
USER 65532:65532
EXPOSE 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["prefork", "health"]
ENTRYPOINT ["prefork"]
CMD ["run", "/app/conf/echo.yaml", "--set", "listeners.echo.bind=tcp://0.0.0.0:9000"]

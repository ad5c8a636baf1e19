# The image as `cargo xtask dist image` builds it, for those who build in containers: docker build .
# The same tree gives the same root file system; SOURCE_DATE_EPOCH sets its times, and the digest with them.
FROM rust:1.95.0-bookworm AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /portcullis
COPY . .
RUN cargo xtask dist image

FROM scratch
COPY --from=build /portcullis/target/dist/image/rootfs/ /
LABEL org.opencontainers.image.title="Portcullis"
LABEL org.opencontainers.image.description="Host firewall that reads Calico's policy and enforces it with eBPF"
LABEL org.opencontainers.image.licenses="Apache-2.0 OR MIT"
ENV PATH=/usr/bin
USER 0:0
WORKDIR /
ENTRYPOINT ["/usr/bin/portcullis"]
CMD ["run"]

# A container in a network namespace of its own, to a program of the host: TCP.
podman run way get tcp:host.containers.internal:8080

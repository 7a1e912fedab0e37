# A container in the host's network namespace, to a program of the host. Its root is the user who has
# started it, so programs of that user use shared memory. Other users have no number in it, not even
# the host's root.
podman run --network host way get tcp:127.0.0.1:8080

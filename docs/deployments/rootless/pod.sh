# Two containers of one pod of a user who is not root: shared memory.
podman pod create --name app
podman run --detach --pod app --user 1000 way serve tcp::8080
podman run --pod app way get tcp:127.0.0.1:8080

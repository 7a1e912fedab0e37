// Command deployments runs a server and a client in the places where services run: as two users, in
// systemd's units, containers, pods and sandboxes, which it imitates with namespaces. It prints which
// way their connections took, why, and the requests in a second.
//
//	go run ./examples/deployments                      all places; needs Linux and root
//	go run ./examples/deployments -before COMMIT       beside an earlier version
//	go run ./examples/deployments places/02*.sh        some of them
//
// Each place is a script in the directory places. What the commands of systemd, Docker and Kubernetes
// would be is in the directories of these names.
package main

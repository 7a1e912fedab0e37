module cutthrough.example/examples/integrations

go 1.26.0

replace (
	cutthrough.example => ../..
	cutthrough.example/ctgrpc => ../../ctgrpc
)

require (
	cutthrough.example v0.0.0
	github.com/coder/websocket v1.8.15
	github.com/stretchr/testify v1.12.1
	golang.org/x/crypto v0.58.0
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

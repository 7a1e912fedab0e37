package ctotel_test

import (
	"fmt"

	"cutthrough.example/ctnet"
	"cutthrough.example/ctotel"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

func Example() {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer app.Close()

	registration, err := ctotel.Observe(nil, otel.Meter("cutthrough.example/ctotel"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer registration.Unregister()

	// Several Apps in one program:
	meter := otel.Meter("cutthrough.example/ctotel", metric.WithInstrumentationAttributes(attribute.String("app", "backend")))
	registration, err = ctotel.Observe(app, meter)
	fmt.Println(err)
	// Output: <nil>
}

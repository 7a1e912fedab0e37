package ctprom_test

import (
	"fmt"
	"net/http"

	"cutthrough.example/ctnet"
	"cutthrough.example/ctprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func Example() {
	prometheus.MustRegister(ctprom.NewCollector(nil))
	http.Handle("/metrics", promhttp.Handler())

	all, err := prometheus.DefaultGatherer.Gather()
	fmt.Println(len(all) > 20, err)
	// Output: true <nil>
}

func ExampleNewCollector() {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer app.Close()
	registry := prometheus.NewRegistry()

	// Several Apps in one program are told apart by a label of yours, which each of them needs then:
	r := prometheus.WrapRegistererWith(prometheus.Labels{"app": "backend"}, registry)
	r.MustRegister(ctprom.NewCollector(app))

	all, err := registry.Gather()
	fmt.Println(len(all) > 20, err)
	// Output: true <nil>
}

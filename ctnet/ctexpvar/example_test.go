package ctexpvar_test

import (
	"expvar"
	"fmt"

	"cutthrough.example/ctnet"
	"cutthrough.example/ctnet/ctexpvar"
)

func Example() {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer app.Close()
	expvar.Publish("backend", ctexpvar.Var(app)) // of a program that has an App of its own
	fmt.Println(len(expvar.Get("backend").String()) > 0)
	// Output: true
}

// Package acceptance holds tests only. They build the tandem program, start it
// as its users do, and hold it to its promises over real sockets and real
// files: nothing in here reaches inside of it.
package acceptance

// streams: reads many streams of events at once, checks each one's order and end, and measures the time between chunks.
//
//	streams -target 127.0.0.1:8080 -n 500 -tokens 1000 [-model M]     (or -target /path/x.sock)
//
// Prints one line of JSON. The server is to send `tok0 `, `tok1 `, ... one a chunk, then [DONE] (see ../fakellama).
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

type outcome struct {
	gaps      []float64 // milliseconds
	tokens    int
	reordered int
	failure   string
}

func dial(target string) (net.Conn, error) {
	if strings.HasPrefix(target, "/") {
		return net.Dial("unix", target)
	}
	return net.Dial("tcp", target)
}

func stream(target, model string, tokens int, out *outcome) {
	conn, err := dial(target)
	if err != nil {
		out.failure = err.Error()
		return
	}
	defer conn.Close()
	body := fmt.Sprintf(`{"model":%q,"stream":true,"max_tokens":%d,"messages":[]}`, model, tokens)
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		out.failure = err.Error()
		return
	}
	if answer.StatusCode != 200 {
		out.failure = answer.Status
		return
	}
	out.gaps = make([]float64, 0, tokens)
	lines := bufio.NewReader(answer.Body)
	var last time.Time
	done := false
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			out.failure = err.Error()
			return
		}
		if !bytes.HasPrefix(line, []byte("data: ")) {
			continue
		}
		now := time.Now()
		if bytes.HasPrefix(line, []byte("data: [DONE]")) {
			done = true
			continue
		}
		if !last.IsZero() {
			out.gaps = append(out.gaps, float64(now.Sub(last).Microseconds())/1000)
		}
		last = now
		at := bytes.Index(line, []byte(`"content":"tok`))
		end := bytes.IndexByte(line[at+1:], ' ')
		if at < 0 || end < 0 {
			out.failure = "an event without a token: " + string(line)
			return
		}
		number, _ := strconv.Atoi(string(line[at+len(`"content":"tok`) : at+1+end]))
		if number != out.tokens {
			out.reordered++
		}
		out.tokens++
	}
	if !done {
		out.failure = "ended without [DONE]"
	}
}

func main() {
	target := flag.String("target", "", "host:port, or the path of a unix socket")
	model := flag.String("model", "a", "")
	n := flag.Int("n", 500, "streams at once")
	tokens := flag.Int("tokens", 1000, "chunks of each stream")
	flag.Parse()
	outcomes := make([]outcome, *n)
	var all sync.WaitGroup
	began := time.Now()
	for i := range outcomes {
		all.Add(1)
		go func(out *outcome) {
			defer all.Done()
			stream(*target, *model, *tokens, out)
		}(&outcomes[i])
	}
	all.Wait()
	seconds := time.Since(began).Seconds()
	var gaps []float64
	failures := []string{}
	got, reordered, incomplete := 0, 0, 0
	for _, one := range outcomes {
		gaps = append(gaps, one.gaps...)
		got += one.tokens
		reordered += one.reordered
		if one.tokens != *tokens || one.failure != "" {
			incomplete++
		}
		if one.failure != "" && len(failures) < 5 {
			failures = append(failures, one.failure)
		}
	}
	sort.Float64s(gaps)
	at := func(share float64) float64 {
		if len(gaps) == 0 {
			return 0
		}
		return gaps[int(share*float64(len(gaps)-1))]
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"chunks": got, "lost": *n**tokens - got, "reordered": reordered, "incomplete": incomplete, "failures": failures,
		"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1), "seconds": seconds,
	})
}

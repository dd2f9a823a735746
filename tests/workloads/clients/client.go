// An HTTP client on net/http: what a plan says (see client.py), request by request, with a line for each answer: status, bytes, CRC-32.
package main

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	plan, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Timeout: time.Minute}
	for _, line := range strings.Split(strings.TrimSpace(string(plan)), "\n") {
		words := strings.Fields(line)
		data := make([]byte, number(words[2]))
		for at := range data {
			data[at] = byte((at*31 + 7) % 251)
		}
		var body io.Reader
		switch words[3] {
		case "length":
			body = bytes.NewReader(data)
		case "chunked":
			// A reader of unknown length is sent in chunks.
			body = struct{ io.Reader }{bytes.NewReader(data)}
		}
		request, err := http.NewRequest(words[0], "http://"+os.Args[1]+words[1], body)
		if err != nil {
			log.Fatal(err)
		}
		if padding := number(words[4]); padding != 0 {
			request.Header.Set("X-Padding", strings.Repeat("p", padding))
		}
		request.Close = words[5] == "close"
		response, err := client.Do(request)
		if err != nil {
			log.Fatal(err)
		}
		content, err := io.ReadAll(response.Body)
		if err != nil {
			log.Fatal(err)
		}
		response.Body.Close()
		fmt.Println(response.StatusCode, len(content), crc32.ChecksumIEEE(content))
	}
}

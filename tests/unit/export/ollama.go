// What Ollama does to a template: parse it, join neighbours of one role, run it on the messages. Reads and writes JSON lines.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role, Content string
}

type request struct {
	Template string
	Messages []message
}

func main() {
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<24)
	for input.Scan() {
		var asked request
		if err := json.Unmarshal(input.Bytes(), &asked); err != nil {
			panic(err)
		}
		var system []string
		var messages []*message
		for i := range asked.Messages {
			one := &asked.Messages[i]
			if one.Role == "system" {
				system = append(system, one.Content)
			}
			if last := len(messages) - 1; last >= 0 && messages[last].Role == one.Role {
				messages[last].Content += "\n\n" + one.Content
			} else {
				messages = append(messages, one)
			}
		}
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(asked.Template))
		var text bytes.Buffer
		values := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": messages, "Response": ""}
		if err := parsed.Execute(&text, values); err != nil {
			panic(err)
		}
		line, _ := json.Marshal(text.String())
		fmt.Println(string(line))
	}
}

// Package conformance replays a file of requests and expected answers against
// a server and says what differs, field by field. The file is what a published
// document says of an API, sentence by sentence.
//
// # The file
//
// A file is YAML or JSON (which is YAML), at most 4 MiB, without anchors,
// aliases and unknown members:
//
//	name: keys                       # of the run
//	source: Authentication           # title of the document
//	vars:
//	  key: "{env.API_KEY}"           # from the environment
//	  tier: free                     # a default
//	  org: ""                        # no default: the run must be given one
//	secrets: [key, new_key]          # variables whose values are never printed
//	steps:
//	  - name: create a key
//	    sentence: The key is shown once, when it is created.
//	    request:
//	      method: POST               # default GET, or POST if there is a body
//	      path: /v1/api-keys         # after the base URL; with its query
//	      headers: {Authorization: "Bearer {{key}}"}
//	      json: {name: Staging}      # or body: "text", or form: {name: Staging}
//	    expect:
//	      status: 201                # or a list of which one is answered
//	      headers: {Content-Type: application/json, X-Old: "{{absent}}"}
//	      json: {id: "{{string}}", key: "psk_{{any}}", name: Staging}
//	    save: {new_key: /key, where: Location}
//	  - name: usage headers
//	    later: credits               # not sent: listed with this word, not passed
//
// A step is sent once. With "repeat: n" it is sent n times and each answer must
// be as expected; with "attempts: n" it is sent up to n times until an answer
// is, which is how a limit is reached.
//
// "save" keeps what later steps need: a text, number or boolean of the JSON
// answer by its JSON pointer (RFC 6901), or, without a leading slash, the
// header of that name. Steps run in order. A JSON body is sent as
// application/json and a form as application/x-www-form-urlencoded unless the
// step gives a Content-Type of its own.
//
// # Templates
//
// {{name}} is the value of a variable, in every text of a request, and in the
// expected headers, body and JSON. What is expected may also say:
//
//	{{any}}            anything; in JSON any value that is there
//	{{string}}         a string; in a text one character or more
//	{{integer}}        a whole number
//	{{number}}         a number
//	{{bool}}           true or false
//	{{null}}           null
//	{{time}}           a time as of RFC 3339
//	{{time_or_null}}   such a time, or null
//	{{match <regexp>}} a string that the expression (RE2) matches as a whole
//	{{absent}}         no such header, or no such member
//
// Where such a word is the whole of a JSON string it speaks of the type of the
// value; within a longer text, as in "psk_{{match [a-z]+}}", of the text there.
//
// The order of JSON members is not compared. Members that are not expected are
// differences, unless the object has "{{more}}": true ("{{exact}}": true says
// what is so anyway). An array must have the given elements in their order, or
// is given as {"{{each}}": template}, which every element must fit, or
// {"{{contains}}": template}, which one must; both may be given. A header that
// is sent more than once needs one value that fits.
//
// # Bounds
//
// An answer has at most 1 MiB and 30 seconds. Redirects are not followed. The
// value of an Authorization header and of a variable under "secrets" is never
// printed: where an answer repeats it, the report has […].
package conformance

package provider

// bearer is how most providers want a key.
func bearer() Header { return Header{Name: "Authorization", Value: "Bearer " + Placeholder} }

// preset returns a definition that hands keys on as they came, and verifies
// them with a GET that costs nothing and needs no body.
func preset(suffix, url string, headers ...Header) Definition {
	return Definition{
		Header: "X-Provider-Key-" + suffix,
		Verify: &Check{Method: "GET", URL: url, Headers: headers},
	}
}

// presets are the providers that are known by name, in order of their names.
// Each URL is documented by its provider, wants a key, and lists or tells
// something without making anything that is charged for.
var presets = []struct {
	name string
	make func() Definition
}{
	{"anthropic", func() Definition {
		return preset("Anthropic", "https://api.anthropic.com/v1/models?limit=1",
			Header{"X-Api-Key", Placeholder}, Header{"Anthropic-Version", "2023-06-01"})
	}},
	{"cartesia", func() Definition {
		return preset("Cartesia", "https://api.cartesia.ai/voices?limit=1",
			bearer(), Header{"Cartesia-Version", "2025-04-16"})
	}},
	{"deepgram", func() Definition {
		return preset("Deepgram", "https://api.deepgram.com/v1/auth/token",
			Header{"Authorization", "Token " + Placeholder})
	}},
	{"elevenlabs", func() Definition {
		// A key that was made without the right to read its user is told 401
		// here, as it is by each of ElevenLabs' addresses it has no right to.
		return preset("ElevenLabs", "https://api.elevenlabs.io/v1/user",
			Header{"Xi-Api-Key", Placeholder})
	}},
	{"fishaudio", func() Definition {
		return preset("FishAudio", "https://api.fish.audio/wallet/self/api-credit", bearer())
	}},
	{"groq", func() Definition {
		return preset("Groq", "https://api.groq.com/openai/v1/models", bearer())
	}},
	{"huggingface", func() Definition {
		return preset("HuggingFace", "https://huggingface.co/api/whoami-v2", bearer())
	}},
	{"inworld", func() Definition {
		// Inworld hands its keys out in the Base64 form that Basic wants.
		return preset("Inworld", "https://api.inworld.ai/voices/v1/voices",
			Header{"Authorization", "Basic " + Placeholder})
	}},
	{"openai", func() Definition {
		return preset("OpenAI", "https://api.openai.com/v1/models", bearer())
	}},
	{"resembleai", func() Definition {
		return preset("ResembleAI", "https://app.resemble.ai/api/v2/voices?page=1&page_size=10", bearer())
	}},
}

// Preset returns the definition of a provider that is known by name. It is the
// caller's own to change.
func Preset(name string) (Definition, bool) {
	for _, p := range presets {
		if p.name == name {
			return p.make(), true
		}
	}
	return Definition{}, false
}

// Presets returns the names that Preset knows, in order.
func Presets() []string {
	names := make([]string, 0, len(presets))
	for _, p := range presets {
		names = append(names, p.name)
	}
	return names
}

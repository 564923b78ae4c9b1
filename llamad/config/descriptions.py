"""What each key of the configuration is for, in the words an editor shows."""

from collections.abc import Mapping

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "Config": {
        "llama_server": "the llama-server program: a name looked up in PATH, or an absolute path",
        "models_dir": "where relative model paths start; null: models below the state directory",
        "log": "how llamad itself writes",
        "gateway": "the OpenAI-compatible port over all servers",
        "control": "the socket of the client commands",
        "startup": "when systemd is told READY: settle (every always-on server is ready or has failed), "
        "strict (any failure fails the start), immediate (requests are taken)",
        "watch": "apply an edit as soon as it is saved; false: only `llamad reload` and SIGHUP do",
        "servers": "the llama-servers, by name",
        "defaults": "anything a server may have; goes under every server",
    },
    "LogConfig": {
        "level": "the least important record that is written; requests have gateway.access_log",
        "engine_level": "the same for the lines of llama-servers; null: like level",
        "format": "auto is the journal where there is one, else text",
    },
    "GatewayConfig": {
        "listen": "HOST:PORT, [::1]:PORT, unix:/PATH.sock, or a list of them; null turns the gateway off",
        "api_keys_file": "one NAME:KEY a line; without keys none is asked, and only loopback may be listened on",
        "insecure": "true: listen beyond loopback without keys",
        "max_body": "the largest request",
        "max_connections": "clients that may be connected at once, as far as file descriptors (LimitNOFILE=) allow; "
        "where there are more, idle connections are closed, and if none is idle the newest gets 503",
        "lame_duck": "how long, when llamad is stopped, /ready says no while requests are still taken; then the port "
        "is closed, and what runs may end",
        "queue": "requests that wait for a replica, per server",
        "access_log": "which requests are logged",
        "cors_origins": "web pages that may ask from a browser",
        "hosts": "names under which it is asked, beside its address and loopback's, where no key is asked; * is any",
        "memory_budget": "what on-demand servers may fill together, per GPU index, or host",
    },
    "QueueConfig": {"size": "how many may wait", "timeout": "how long one may wait"},
    "ControlConfig": {"socket": "its path; null: control.sock in the runtime directory"},
    "ServerConfig": {
        "model": "a GGUF file, or the first part of a split one; a relative path starts at models_dir",
        "hf_repo": "ORG/NAME:QUANT, which llama-server fetches into the cache directory",
        "url": "http://HOST:PORT, a llama-server that llamad does not run, only watches and routes to",
        "api_key_credential": "with url: the systemd credential that holds the key it asks for",
        "api_key_file": "with url: the file that holds the key it asks for",
        "llama_server": "the program, where it is not the one above all servers",
        "aliases": "other names that requests may use for it",
        "gpus": "indices (nvidia-smi's order) or UUIDs; all; none; a list of lists gives each replica its own",
        "args": (
            "llama-server's own long options, with - or _, in any order; a list where the option takes several values, "
            "a mapping where it takes JSON, null to take a default away; relative files start in models_dir"
        ),
        "extra_args": "words for the command line, one an item, in this order; relative files start in models_dir",
        "env": "variables of the process, LLAMA_ARG_... among them; no secrets here",
        "port": "null: a private unix socket; a number: TCP on host (replica n: port + n)",
        "host": "where port is listened on",
        "replicas": "how many processes of it run",
        "start": "always, on-demand (at the first request) or manual (by llamad start)",
        "idle_timeout": "an on-demand server stops after this long without a request; null: never",
        "replace": "on a change that needs a new process: stop the old one first, or start the new one first",
        "restart": "how it comes back after an exit",
        "health": "how it is watched",
        "stop": "how it is stopped",
        "max_concurrent": "requests at once, per replica; null: the number of its slots",
        "group": "servers of one group never run together",
        "memory": "what it needs of gateway.memory_budget: a size, or one per GPU",
        "evictable": "may make way for others when idle; null: true for on-demand servers, false for the rest",
        "limits": "of its control group",
        "env_credentials": "variables of the process from systemd credentials: VARIABLE: name of the credential",
    },
    "RestartPolicy": {
        "initial_delay": "before the first restart",
        "factor": "by which each further delay is longer",
        "max_delay": "the longest delay",
        "jitter": "the share by which a delay is varied at random",
        "max_retries": "quick failures in a row before the server has failed; null: never give up",
        "reset_after": "once it was ready for this long, its failures count from 0 again",
        "retry_failed_every": "how often a failed server is tried again; null: not",
    },
    "HealthPolicy": {
        "interval": "between two probes; at least 1s, or llama-server would finish answers whose clients have left",
        "timeout": "of one probe",
        "load_stall_timeout": "a load without progress for this long has failed; one that computes gets 12 times that",
        "hang_timeout": "a server without progress for this long is replaced; one that computes makes progress",
        "failures": "probes without an answer before it gets no new requests",
    },
    "StopPolicy": {
        "drain_timeout": "for the requests that run",
        "term_timeout": "from SIGTERM to SIGKILL",
    },
    "LimitsConfig": {
        "memory_max": "beyond this the kernel kills it (memory.max)",
        "memory_high": "beyond this the kernel slows it down (memory.high)",
        "cpu_weight": "its share of the CPUs; 100 is normal (cpu.weight)",
    },
}
"""By section of the model, then by key."""

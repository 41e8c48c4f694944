//! nginx's files, followed as nginx follows them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use standin_config::nginx::{
    ListenAddress, MAX_FILES, NginxConfig, Protocol, also_line, outside, read,
};

/// A file system of texts; a pattern `DIR/*END` matches what is in DIR and ends so.
fn config(main: &str, files: &[(&str, &str)]) -> NginxConfig {
    let files: BTreeMap<PathBuf, Vec<u8>> =
        files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect();
    let open = |path: &Path| {
        files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let glob = |pattern: &str| {
        let (folder, end) = pattern.split_once('*').unwrap_or((pattern, ""));
        files
            .keys()
            .filter(|path| {
                let path = path.to_string_lossy();
                path.strip_prefix(folder)
                    .is_some_and(|name| !name.contains('/') && name.ends_with(end))
            })
            .cloned()
            .collect()
    };
    read(Path::new(main), &open, &glob)
}

const DEBIAN: &[(&str, &str)] = &[
    (
        "/etc/nginx/nginx.conf",
        "user www-data;\npid /run/nginx.pid;\ninclude /etc/nginx/modules-enabled/*.conf;\n\
         events { worker_connections 768; }\n\
         http {\n  include mime.types;\n  include /etc/nginx/sites-enabled/*;\n}\n\
         stream { upstream u { server 10.0.0.1:53; } server { listen 192.168.1.41:53 udp; } }\n\
         mail { server { listen 25; } }\n",
    ),
    ("/etc/nginx/modules-enabled/50-x.conf", "load_module modules/x.so;"),
    ("/etc/nginx/mime.types", "types { text/html html htm; }"),
    (
        "/etc/nginx/sites-enabled/a",
        "server {\n listen 80 default_server;\n listen [::]:80 default_server;\n server_name _ a.example;\n \
         location / { auth_basic_user_file htpasswd; }\n}\n\
         server { listen 443 ssl; listen 443 quic; ssl_certificate /etc/letsencrypt/a.pem;\n \
         ssl_certificate_key data:$key; }\n",
    ),
    (
        "/etc/nginx/sites-enabled/b",
        "js_import m from js/m.js;\nserver { server_name b; }\n\
         server { listen localhost:8080 proxy_protocol; content_by_lua_file lua/x.lua;\n\
         if ($a) { return 200 \"server { listen 1; }\"; } }",
    ),
];

#[test]
fn debians_layout_is_read_whole() {
    let config = config("/etc/nginx/nginx.conf", DEBIAN);
    assert_eq!(config.problems, []);
    assert_eq!(config.files.len(), 5);
    assert_eq!(config.pid.as_deref(), Some(Path::new("/run/nginx.pid")));
    assert_eq!(config.user.as_deref(), Some("www-data"));
    let listens: Vec<_> = config
        .listens
        .iter()
        .map(|l| (l.port, l.is_plain_http(), l.server_names.join(" "), l.at.to_string()))
        .collect();
    let site = |line: u32| format!("/etc/nginx/sites-enabled/a:{line}");
    let names = || "_ a.example".to_owned();
    assert_eq!(listens[0], (80, true, names(), site(2)));
    assert_eq!(listens[1], (80, true, names(), site(3)));
    assert_eq!(listens[2], (443, false, String::new(), site(7)));
    assert!(!listens[3].1 && config.listens[3].quic);
    assert_eq!(listens[4], (80, true, "b".to_owned(), "/etc/nginx/sites-enabled/b:2".to_owned()));
    assert_eq!(config.listens[4].address, ListenAddress::AnyV4);
    assert_eq!(config.listens[5].address, ListenAddress::Name("localhost".to_owned()));
    assert!(!listens[5].1);
    assert_eq!(listens.len(), 6);
}

#[test]
fn what_one_listen_says_of_a_port_counts_for_every_server_there() {
    let text = "http {\n\
         server { listen 80 default_server proxy_protocol; listen [::]:80 ipv6only=off; }\n\
         server { listen 80; }\n\
         server { listen 0.0.0.0:443; listen [::]:80; listen 8000-8010 proxy_protocol; }\n\
         server { listen *:443 ssl; listen 443 quic; listen [::]:80 proxy_protocol; }\n\
         server { listen 8005; listen 127.0.0.1:80; } }\n";
    let config = config("/n.conf", &[("/n.conf", text)]);
    let seen: Vec<_> = config
        .listens
        .iter()
        .map(|listen| (listen.at.line, listen.port, listen.ssl, listen.proxy_protocol))
        .collect();
    assert_eq!(
        seen,
        [
            (2, 80, false, true),
            (2, 80, false, true),
            (3, 80, false, true),
            (4, 443, true, false),
            (4, 80, false, true),
            (4, 8000, false, true),
            (5, 443, true, false),
            (5, 443, false, false),
            (5, 80, false, true),
            (6, 8005, false, true),
            (6, 80, false, false),
        ]
    );
}

#[test]
fn stream_and_mail_listens_are_kept_apart() {
    let config = config("/etc/nginx/nginx.conf", DEBIAN);
    let other: Vec<_> =
        config.other_listens.iter().map(|l| (l.protocol, l.ip(), l.port, l.udp)).collect();
    assert_eq!(
        other,
        [
            (Protocol::Stream, Some("192.168.1.41".parse().unwrap()), 53, true),
            (Protocol::Mail, None, 25, false)
        ]
    );
}

#[test]
fn files_outside_are_named_with_their_place() {
    let config = config("/etc/nginx/nginx.conf", DEBIAN);
    let outside: Vec<_> = config
        .outside
        .iter()
        .map(|o| (o.directive.as_str(), o.path.to_str().unwrap(), o.at.line))
        .collect();
    assert_eq!(
        outside,
        [
            ("load_module", "modules/x.so", 1),
            ("auth_basic_user_file", "/etc/nginx/htpasswd", 5),
            ("ssl_certificate", "/etc/letsencrypt/a.pem", 7),
            ("js_import", "/etc/nginx/js/m.js", 1),
            ("content_by_lua_file", "lua/x.lua", 3),
        ]
    );
}

#[test]
fn includes_in_a_circle_end() {
    let config = config("/n.conf", &[("/n.conf", "include n.conf; include n.conf;")]);
    assert_eq!(config.files.len(), 1);
    let problem = config.problems[0].to_string();
    assert!(problem.contains("/n.conf:1: includes are nested deeper than 16"), "{problem}");
    assert!(config.problems.iter().any(|p| p.what.contains(&MAX_FILES.to_string())));
}

#[test]
fn what_cannot_be_followed_is_named_and_the_rest_is_read() {
    let config = config(
        "/n.conf",
        &[
            (
                "/n.conf",
                "include gone.conf;\nhttp {\n include open.conf;\n server { listen [x]; listen 81; }\n}\n}\na",
            ),
            ("/open.conf", "server { listen 82;"),
        ],
    );
    let problems: Vec<String> = config.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert!(problems[0].starts_with("/n.conf:1: can't read /gone.conf: "));
    assert!(problems[1].starts_with("/open.conf:0: the file ends before"));
    assert!(problems[2].starts_with("/n.conf:4: listen has no usable address: [x]"));
    assert!(problems[3].starts_with("/n.conf:6: `}` closes nothing"));
    assert!(problems[4].starts_with("/n.conf:7: `;` is missing"));
    assert_eq!(config.listens.iter().map(|l| l.port).collect::<Vec<_>>(), [82, 81]);
}

#[test]
fn an_include_within_a_server_belongs_to_it() {
    let config = config(
        "/n.conf",
        &[
            (
                "/n.conf",
                "http { server { include listen.inc; server_name a; } include 'with blank.conf'; }",
            ),
            ("/listen.inc", "listen 81; listen 82 ssl;"),
            ("/with blank.conf", "server { ssl on; listen unix:/run/x; listen 83; }"),
        ],
    );
    assert_eq!(config.problems, []);
    let listens: Vec<_> =
        config.listens.iter().map(|l| (l.port, l.ssl, l.server_names.len())).collect();
    assert_eq!(listens, [(81, false, 1), (82, true, 1), (0, true, 0), (83, true, 0)]);
}

/// What lies outside of `/etc/nginx`, and the line that would share it. `links` are symbolic.
fn shared(text: &str, links: &[(&str, &str)], present: &[&str]) -> (Vec<String>, Option<String>) {
    let config = config("/etc/nginx/nginx.conf", &[("/etc/nginx/nginx.conf", text)]);
    let real = |path: &Path| {
        let target = links.iter().find(|(link, _)| Path::new(link) == path);
        Some(target.map_or_else(|| path.to_owned(), |(_, target)| PathBuf::from(target)))
    };
    let roots = [PathBuf::from("/etc/nginx")];
    let named = outside(&config, Path::new("/usr/share/nginx"), &roots, &real);
    let present: Vec<_> = present.iter().map(PathBuf::from).collect();
    (named.iter().map(ToString::to_string).collect(), also_line(&named, &roots, &present))
}

#[test]
fn what_is_not_shared_is_named_with_the_line_that_shares_it() {
    let (named, line) = shared(
        "load_module modules/x.so;\ninclude /opt/more.conf;\n\
         ssl_certificate /etc/letsencrypt/live/a/full.pem;\nssl_certificate_key key.pem;\n\
         ssl_dhparam /etc/ssl/dh.pem;\nssl_certificate /etc/ssl/$host.pem;\n\
         auth_basic_user_file /etc/nginx/../secret/users;\nssl_dhparam /etc/ssl/dh.pem;\n",
        &[("/etc/letsencrypt/live/a/full.pem", "/etc/letsencrypt/archive/a/full1.pem")],
        &["/srv/tls"],
    );
    let at = |line: u32, what: &str| format!("/etc/nginx/nginx.conf:{line}: {what}");
    assert_eq!(
        named,
        [
            at(3, "ssl_certificate /etc/letsencrypt/live/a/full.pem"),
            at(7, "auth_basic_user_file /etc/secret/users"),
            at(5, "ssl_dhparam /etc/ssl/dh.pem"),
            at(2, "include /opt/more.conf"),
            at(1, "load_module /usr/share/nginx/modules/x.so"),
        ]
    );
    let expected = "also = [\"/etc/letsencrypt\", \"/etc/secret/users\", \"/etc/ssl/dh.pem\", \
                    \"/opt/more.conf\", \"/srv/tls\"]";
    assert_eq!(line.as_deref(), Some(expected));
}

#[test]
fn a_link_out_of_the_tree_is_named_and_a_link_into_it_is_not() {
    let (named, line) = shared(
        "ssl_certificate tls/a.pem;\nssl_certificate_key /srv/key.pem;\n",
        &[
            ("/etc/nginx/tls/a.pem", "/var/lib/tls/a.pem"),
            ("/srv/key.pem", "/etc/nginx/tls/key.pem"),
        ],
        &[],
    );
    assert_eq!(named, ["/etc/nginx/nginx.conf:1: ssl_certificate /etc/nginx/tls/a.pem"]);
    assert_eq!(line.as_deref(), Some("also = [\"/var/lib/tls/a.pem\"]"));
    assert_eq!(shared("worker_processes 1;", &[], &["/srv/tls"]), (vec![], None));
    // As Debian has it.
    let link = "/etc/nginx/modules-enabled/50-x.conf";
    let module = [(link, "/usr/share/nginx/modules-available/x.conf")];
    let (named, line) = shared(&format!("include {link};"), &module, &[]);
    assert_eq!((named.len(), line), (1, None));
}

#[test]
fn many_files_of_one_directory_are_shared_by_the_directory() {
    let text = |count: u32| {
        (0..count).map(|n| format!("ssl_certificate /etc/ssl/sites/{n}.pem;\n")).collect::<String>()
    };
    let line = shared(&text(4), &[], &[]).1;
    assert_eq!(line.as_deref(), Some("also = [\"/etc/ssl/sites\"]"));
    assert_eq!(shared(&text(3), &[], &[]).1.map(|line| line.matches(".pem").count()), Some(3));
}

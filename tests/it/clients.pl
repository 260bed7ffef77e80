# Perl's own client: it says what it hears; see clients.py.
use strict;
use warnings;
use HTTP::Tiny;

$| = 1;
my $answer = HTTP::Tiny->new(timeout => 600)->get($ARGV[0], { data_callback => sub { print $_[0] } });
print $answer->{success} ? "\n= end\n" : "\n= error $answer->{status} $answer->{content}\n";
